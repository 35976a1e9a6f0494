"""What a sweep found, as tables on the console, Markdown and JSON; a replication's claims come first."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from expo_lite.results.statistics import Estimate
from expo_lite.run.folder import write_atomically
from expo_lite.sweep.claims import JudgedPart, Judgement, Verdict, answers, judge_claims, one_seed
from expo_lite.sweep.plan import SweepPlan
from expo_lite.sweep.results import Results
from expo_lite.terminal import visible_line

STYLES = {
    Verdict.HOLDS: "green",
    Verdict.FAILS: "red",
    Verdict.UNDECIDED: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.NOT_MEASURED: "dim",
}
COSTS = {"num_tokens": "sampled tokens", "step_time": "seconds of steps"}


def claim_table(judgements: Sequence[Judgement]) -> Table:
    """Claim by claim and part by part: ours, and the verdict."""
    table = _table("The paper's claims", "", "claim", "ours", "")
    for judgement in judgements:
        claim = judgement.claim
        table.add_row(str(claim.number), claim.statement, judgement.inapplicable or "", _styled(judgement.verdict))
        for part in judgement.parts:
            table.add_row("", f"· {part.part.statement}", part.figure, _styled(part.verdict))
    return table


def answer_table(heading: str, parts: Sequence[JudgedPart], level: str) -> Table:
    """The differences of pairs of runs."""
    table = _table(f"{heading} (level {level})", "", "difference", "")
    for part in parts:
        table.add_row(part.part.statement, part.figure, _styled(part.verdict))
    return table


def level_table(results: Results, k: int) -> Table:
    """pass@k of the untrained model and of every run, by level."""
    table = _table(f"pass@{k} by level", "", *results.columns)
    for name, cells in level_rows(results, k):
        table.add_row(Text(name), *cells)
    return table


def level_rows(results: Results, k: int) -> list[tuple[str, list[str]]]:
    """Name and figures by level of every untrained model and of every run that has finished."""
    return [
        (name, [found.text() if found else "-" for found in figures])
        for name, figures in figures_by_level(results, k).items()
    ]


def figures_by_level(results: Results, k: int) -> dict[str, list[Estimate | None]]:
    """pass@k by level of every untrained model and every run that has finished; None where it has no such level."""

    def figure(name: str, level: str) -> Estimate | None:
        try:
            return results.accuracy(name, level, k)
        except KeyError:
            return None

    return {name: [figure(name, level) for level in results.columns] for name in (*results.bases, *results.finished)}


def cost_rows(results: Results) -> list[tuple[str, list[str]]]:
    """Name, seeds, sampled tokens and seconds of every run that has finished."""
    return [
        (name, [str(results.n_seeds(name)), *(_count(results.total(name, metric)) for metric in COSTS)])
        for name in results.finished
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan came to. Claims are judged and questions asked of a replication only; else both are empty."""

    plan: SweepPlan
    results: Results
    failures: Mapping[str, str]
    judgements: list[Judgement]
    asked: dict[str, list[JudgedPart]]

    @classmethod
    def of(cls, plan: SweepPlan, results: Results, failures: Mapping[str, str]) -> "Outcome":
        """Judge what is to be judged."""
        if not plan.diagnose_problems:
            return cls(plan, results, failures, [], {})
        return cls(plan, results, failures, judge_claims(results), answers(results))

    @property
    def title(self) -> str:
        """What was carried out, on what."""
        title = "The paper's claims" if self.judgements else f"Sweep {visible_line(self.plan.name)}"
        return f"{title} on {self.each('model')}, {self.each('task')}"

    def each(self, setting: str) -> str:
        """A setting's values of all runs that have finished, in words."""
        seed = self.plan.seeds[0]
        return _either(getattr(self.plan.config(name, seed), setting) for name in self.results.finished)

    @property
    def sentence(self) -> str:
        """How much was trained and measured."""
        befores = self.results.befores.values()
        some = [before.levels[0] for before in befores]
        return (
            f"Seeds {', '.join(map(str, self.plan.seeds))}; {self.each('steps')} steps of "
            f"{self.each('problems_per_step')} problems with {self.each('group_size')} completions each; "
            f"{_either(row.n_samples for row in some)} samples a problem at temperature "
            f"{_either(before.temperature for before in befores)}, "
            f"{_either(row.n_problems for row in some)} held-out problems a level."
        )

    @property
    def closing_line(self) -> str | None:
        """What one seed cannot say; None where there are more."""
        parts = [*(part for j in self.judgements for part in j.parts), *chain.from_iterable(self.asked.values())]
        if not one_seed(parts):
            return None
        return (
            "One seed: the intervals carry problems only, and another seed may turn a verdict. "
            "Nothing about training is decided by this."
        )

    def write(self) -> list[Path]:
        """Write Markdown and JSON into the plan's folder; returns the files."""
        stem = "replication" if self.judgements else "sweep"
        markdown, data = (self.plan.folder / f"{stem}.{ending}" for ending in ("md", "json"))
        write_atomically(markdown, "\n".join(_markdown(self)) + "\n")
        write_atomically(data, json.dumps(_json(self), indent=2) + "\n")
        return [markdown, data]


def _json(outcome: Outcome) -> dict[str, Any]:
    results = outcome.results
    figures = figures_by_level(results, results.k)
    return {
        "model": outcome.each("model"),
        "task": outcome.each("task"),
        "seeds": outcome.plan.seeds,
        "claims": [
            {
                "number": j.claim.number,
                "statement": j.claim.statement,
                "paper": j.claim.paper,
                "verdict": j.verdict,
                "parts": list(map(part_json, j.parts)),
            }
            for j in outcome.judgements
        ],
        "questions": {heading: list(map(part_json, parts)) for heading, parts in outcome.asked.items()},
        "runs": {
            name: {
                "seeds": sorted(results.runs.get(name, ())),
                f"pass@{results.k}": {
                    level: found and asdict(found) for level, found in zip(results.columns, figures[name], strict=True)
                },
                **({metric: asdict(results.total(name, metric)) for metric in COSTS} if name in results.runs else {}),
            }
            for name in figures
        },
        "failures": outcome.failures,
    }


def part_json(judged: JudgedPart) -> dict[str, Any]:
    """A part as plain JSON values."""
    return {
        "statement": judged.part.statement,
        "figure": _finite(judged.estimate) if judged.estimate else None,
        "above": judged.part.above,
        "at_most": judged.part.at_most,
        "seeds": judged.n_seeds,
        "verdict": judged.verdict,
    }


def _finite(estimate: Estimate) -> dict[str, float | None]:
    """Plain JSON values, which know no infinity: an open end is null, as in diagnosis.json."""
    return {name: end if math.isfinite(end) else None for name, end in asdict(estimate).items()}


def _markdown(outcome: Outcome) -> list[str]:
    results, judgements = outcome.results, outcome.judgements
    lines = [
        f"# {outcome.title}",
        "",
        f"{outcome.sentence} Percent, with 95% intervals that carry seeds (Student) and problems (bootstrap); "
        "differences are paired by both.",
        "",
    ]
    if judgements:
        lines += [
            "A part holds if its whole interval is on the right side of its bound, fails if all of it is on the wrong "
            "one, and is undecided in between.",
            "",
            *_rows(["", "claim", "paper", "ours", ""], _claim_rows(judgements)),
        ]
    for heading, parts in outcome.asked.items():
        rows = [[p.part.statement, p.figure, str(p.n_seeds), f"**{p.verdict}**"] for p in parts]
        lines += ["", f"## {heading}", "", *_rows([f"level {results.hardest}", "difference", "seeds", ""], rows)]
    for k in sorted({1, results.k}):
        rows = [[name, *cells] for name, cells in level_rows(results, k)]
        lines += ["", f"## pass@{k} by level", "", *_rows(["run", *results.columns], rows)]
    rows = [[name, *cells] for name, cells in cost_rows(results)]
    lines += ["", "## What it cost", "", *_rows(["run", "seeds", *COSTS.values()], rows)]
    return [*lines, *(f"\n{name} failed: {visible_line(failure)}" for name, failure in outcome.failures.items())]


def _claim_rows(judgements: Sequence[Judgement]) -> list[list[str]]:
    rows = []
    for j in judgements:
        rows.append([str(j.claim.number), j.claim.statement, j.claim.paper, j.inapplicable or "", f"**{j.verdict}**"])
        rows += [["", f"· {p.part.statement}", "", p.figure, p.verdict] for p in j.parts]
    return rows


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name)
    return table


def _styled(verdict: Verdict) -> Text:
    return Text(verdict, STYLES[verdict])


def _either(values: Iterable[object]) -> str:
    """Those that differ, as in '100 or 200'."""
    return " or ".join(dict.fromkeys(visible_line(str(value)) for value in values))


def _count(estimate: Estimate) -> str:
    return f"{estimate.value:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"
