"""What a sweep found, as tables on the console, Markdown and JSON; a replication's claims come first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from expo_lite.measure.statistics import Estimate
from expo_lite.records import ALL
from expo_lite.run.files import write_atomically
from expo_lite.sweep.claims import JudgedPart, Judgement, Verdict, answers, judge_claims, one_seed
from expo_lite.sweep.plan import SweepPlan
from expo_lite.sweep.results import BASE, Results
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
    table = _table(f"pass@{k} by level", "", *rows_of(results))
    for name, cells in level_rows(results, k):
        table.add_row(name, *cells)
    return table


def rows_of(results: Results) -> list[str]:
    """The columns of the level table: every level, and all where there is more than one."""
    return [*results.levels, *([ALL] if len(results.levels) > 1 else [])]


def level_rows(results: Results, k: int) -> list[tuple[str, list[str]]]:
    """Name and figures by level of the untrained model and of every run that has finished."""
    return [
        (name, [results.accuracy(name, level, k).text() for level in rows_of(results)])
        for name in (BASE, *results.finished)
    ]


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
        config = self.plan.any_config
        title = "The paper's claims" if self.judgements else f"Sweep {visible_line(self.plan.name)}"
        return f"{title} on {visible_line(config.model)}, {visible_line(config.task)}"

    @property
    def sentence(self) -> str:
        """How much was trained and measured."""
        config, before = self.plan.any_config, self.results.any_run.before
        some = before.levels[0]
        return (
            f"Seeds {', '.join(map(str, self.plan.seeds))}; {config.steps} steps of {config.problems_per_step} "
            f"problems with {config.group_size} completions each; {some.n_samples} samples a problem at temperature "
            f"{before.temperature}, {some.n_problems} held-out problems a level."
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
    results, config = outcome.results, outcome.plan.any_config
    return {
        "model": config.model,
        "task": config.task,
        "seeds": outcome.plan.seeds,
        "claims": [
            {
                "number": j.claim.number,
                "statement": j.claim.statement,
                "paper": j.claim.paper,
                "verdict": j.verdict,
                "parts": list(map(_part_json, j.parts)),
            }
            for j in outcome.judgements
        ],
        "questions": {heading: list(map(_part_json, parts)) for heading, parts in outcome.asked.items()},
        "runs": {
            name: {
                "seeds": sorted(results.runs.get(name, ())),
                f"pass@{results.k}": {level: asdict(results.accuracy(name, level)) for level in rows_of(results)},
                **({metric: asdict(results.total(name, metric)) for metric in COSTS} if name != BASE else {}),
            }
            for name in (BASE, *results.finished)
        },
        "failures": outcome.failures,
    }


def _part_json(judged: JudgedPart) -> dict[str, Any]:
    return {
        "statement": judged.part.statement,
        "figure": asdict(judged.estimate) if judged.estimate else None,
        "above": judged.part.above,
        "at_most": judged.part.at_most,
        "seeds": judged.n_seeds,
        "verdict": judged.verdict,
    }


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
        lines += ["", f"## pass@{k} by level", "", *_rows(["run", *rows_of(results)], rows)]
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


def _count(estimate: Estimate) -> str:
    return f"{estimate.value:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"
