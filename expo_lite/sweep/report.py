"""The results of a sweep as tables on the console, Markdown, JSON and an HTML page; claims come first."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from expo_lite.records import ALL
from expo_lite.report import curves
from expo_lite.report.overview import percents
from expo_lite.report.page import document, write_document
from expo_lite.results.record import differing_in
from expo_lite.results.statistics import Estimate
from expo_lite.run.folder import write_atomically
from expo_lite.run.metrics import mean
from expo_lite.settings.metrics import LEVEL_REWARD, METRICS, PANELS
from expo_lite.settings.schema import flat, to_json
from expo_lite.sweep.claims import Claim, ClaimVerdict, Part, answers, judge_claims
from expo_lite.sweep.plan import FIXED, SweepPlan
from expo_lite.sweep.results import BASE, Results, RunResult
from expo_lite.terminal import visible_line

STYLES = {ClaimVerdict.HOLDS: "green", ClaimVerdict.FAILS: "red", ClaimVerdict.UNDECIDED: "yellow"}
COSTS = {"num_tokens": "sampled tokens", "step_time": "seconds of steps"}
DRAWN_FIRST = 6
"""So many runs are drawn until others are chosen: as many as there are colours."""
CURVES = ("reward", "frac_all_wrong", "expo/explanation_accept_rate", "expo/nll_explanation", "loss", "grad_norm", "kl",
          "completions/mean_length", "completions/clipped_ratio")  # fmt: skip
"""Metrics that are drawn; the rewards of levels come after the first."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its heading; a verdict stands in a row's last cell."""

    title: str
    heads: list[str]
    rows: list[list[str]]

    def table(self) -> Table:
        """Lay it out for the console."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for head in self.heads:
            table.add_column(head)
        for *cells, last in self.rows:
            style = next((style for verdict, style in STYLES.items() if verdict == last), "")
            table.add_row(*map(Text, cells), Text(last, style))
        return table

    def markdown(self) -> list[str]:
        """Write it as lines of Markdown."""
        rows = (self.heads, ["---"] * len(self.heads), *self.rows)
        return ["", f"## {self.title}", "", *("| " + " | ".join(row) + " |" for row in rows)]


@dataclass(frozen=True, slots=True)
class SweepReport:
    """A plan and its results. Only a replication has claims and questions; else both are empty."""

    plan: SweepPlan
    results: Results
    failures: Mapping[str, str]
    claims: list[Claim]
    questions: dict[str, list[Part]]

    @classmethod
    def of(cls, plan: SweepPlan, results: Results, failures: Mapping[str, str]) -> "SweepReport":
        """Judge the claims of a replication."""
        if not plan.diagnose_problems:
            return cls(plan, results, failures, [], {})
        return cls(plan, results, failures, judge_claims(results), answers(results))

    @property
    def title(self) -> str:
        """What was carried out, on which model and task."""
        title = "The paper's claims" if self.claims else f"Sweep {visible_line(self.plan.name)}"
        return f"{title} on {self.each('model')}, {self.each('task')}"

    def each(self, setting: str) -> str:
        """The values of a setting in all finished runs, in words: '100 or 200'."""
        seed = self.plan.seeds[0]
        values = (getattr(self.plan.config(name, seed), setting) for name in self.results.finished)
        return " or ".join(dict.fromkeys(visible_line(str(value)) for value in values))

    @property
    def sentence(self) -> str:
        """How much was trained and measured."""
        before = self.results.before
        row = before.levels[0]
        return (
            f"Seeds {', '.join(map(str, self.plan.seeds))}; {self.each('steps')} steps of "
            f"{self.each('problems_per_step')} problems with {self.each('group_size')} completions each; "
            f"{row.n_samples} samples a problem at temperature {before.temperature}, "
            f"{row.n_problems} held-out problems a level."
        )

    @property
    def closing_line(self) -> str | None:
        """A caution where a verdict rests on a single seed."""
        parts = [part for judged in (*(c.parts for c in self.claims), *self.questions.values()) for part in judged]
        if all(part.n_seeds != 1 for part in parts):
            return None
        return (
            "One seed: the intervals carry problems only, and another seed may turn a verdict. "
            "Nothing about training is decided by this."
        )

    def judged(self) -> list[Section]:
        """The claims and the questions as tables."""
        rows = []
        for c in self.claims:
            rows.append([str(c.number), c.statement, c.paper, c.inapplicable or "", c.verdict])
            rows += [["", f"· {part.statement}", "", part.figure, part.verdict] for part in c.parts]
        claims = [Section("The paper's claims", ["", "claim", "paper", "ours", ""], rows)] if rows else []
        heads = [f"level {self.results.hardest}", "difference", "seeds", ""]
        return claims + [
            Section(title, heads, [[part.statement, part.figure, str(part.n_seeds), part.verdict] for part in parts])
            for title, parts in self.questions.items()
        ]

    def accuracies(self) -> list[Section]:
        """pass@1 and pass@k of the base and of every finished run, by level."""
        return [
            Section(
                f"pass@{k} by level",
                ["run", *self.results.columns],
                [
                    [name, *(figure.text() if figure else "-" for figure in figures)]
                    for name, figures in figures_by_level(self.results, k).items()
                ],
            )
            for k in sorted({1, self.results.k})
        ]

    def costs(self) -> Section:
        """Seeds, sampled tokens and seconds of every finished run."""
        rows = []
        for name in self.results.finished:
            totals = [self.results.total(name, metric) for metric in COSTS]
            rows.append([name, str(self.results.n_seeds(name)), *(total.text(scale=1, digits=0) for total in totals)])
        return Section("Cost", ["run", "seeds", *COSTS.values()], rows)

    def write(self) -> list[Path]:
        """Write Markdown, JSON and the page into the plan's folder, and return the files.

        Raises:
            CheckpointError: one cannot be written.
        """
        stem = "replication" if self.claims else "sweep"
        markdown, data, page = (self.plan.folder / name for name in (f"{stem}.md", f"{stem}.json", "report.html"))
        lines = [
            f"# {self.title}",
            "",
            f"{self.sentence} Percent, with 95% intervals that carry seeds (Student) and problems (bootstrap); "
            "differences are paired by both. A part of a claim holds if its whole interval is on the right side of its "
            "bound, fails if all of it is on the wrong one, and is undecided in between.",
        ]
        for section in (*self.judged(), *self.accuracies(), self.costs()):
            lines += section.markdown()
        lines += [f"\n{name} failed: {visible_line(failure)}" for name, failure in self.failures.items()]
        write_atomically(markdown, "\n".join(lines) + "\n")
        write_atomically(data, json.dumps(self.to_json(), indent=2) + "\n")
        write_document(render(self), page)
        return [markdown, data, page]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        results = self.results
        runs: dict[str, dict[str, Any]] = {}
        for name, figures in figures_by_level(results, results.k).items():
            accuracy = zip(results.columns, (figure and asdict(figure) for figure in figures), strict=True)
            runs[name] = {"seeds": sorted(results.runs.get(name, ())), f"pass@{results.k}": dict(accuracy)}
            if name != BASE:
                runs[name] |= {metric: asdict(results.total(name, metric)) for metric in COSTS}
        return {
            "model": self.each("model"),
            "task": self.each("task"),
            "seeds": self.plan.seeds,
            "claims": [
                {name: getattr(claim, name) for name in ("number", "statement", "paper", "verdict")}
                | {"parts": list(map(part_json, claim.parts))}
                for claim in self.claims
            ],
            "questions": {heading: list(map(part_json, parts)) for heading, parts in self.questions.items()},
            "runs": runs,
            "failures": self.failures,
        }


def part_json(part: Part) -> dict[str, Any]:
    """A part as plain JSON values; an open end of its interval is null, for JSON knows no infinity."""
    figure = part.estimate and {n: end if math.isfinite(end) else None for n, end in asdict(part.estimate).items()}
    return {
        "statement": part.statement,
        "figure": figure,
        "above": part.above,
        "at_most": part.at_most,
        "seeds": part.n_seeds,
        "verdict": part.verdict,
    }


def figures_by_level(results: Results, k: int) -> dict[str, list[Estimate | None]]:
    """pass@k by level of the base and of every finished run; None where it was not measured."""

    def figure(name: str, level: str) -> Estimate | None:
        try:
            return results.accuracy(name, level, k)
        except KeyError:
            return None

    return {name: [figure(name, level) for level in results.columns] for name in (BASE, *results.finished)}


def render(report: SweepReport) -> str:
    """The page: verdicts, accuracy by level, curves with bands over seeds, costs, and what differs."""
    results, names = report.results, report.results.finished
    charts = charts_of(results)
    settings = [flat(to_json(report.plan.config(name, report.plan.seeds[0]))) for name in names]
    return document(
        "sweep.html.j2",
        scripts=("charts.js", "page.js"),
        figures={
            "runs": names,
            "last": max(row["step"] for runs in results.runs.values() for run in runs.values() for row in run.metrics),
            "passes": bars(results),
            "charts": [chart.to_json() for chart in charts],
        },
        title=report.title,
        report=report,
        verdicts=list(ClaimVerdict),
        names=names,
        runs=names,
        shown=range(DRAWN_FIRST),
        charts=charts,
        folder=report.plan.folder / "runs",
        differing=differing_in([{key: value for key, value in table if key not in FIXED} for table in settings]),
    )


def bars(results: Results) -> dict[str, Any]:
    """The picture by level, in percent: the untrained model, then every run."""
    tables = {f"pass@{k} by level": figures_by_level(results, k) for k in sorted({1, results.k})}
    series = [
        {
            "label": "before training" if name == BASE else name,
            "run": max(number, 0),
            "before": name == BASE,
            "values": {table: [each and percents(each) for each in rows[name]] for table, rows in tables.items()},
        }
        for number, name in enumerate((BASE, *results.finished), -1)
    ]
    return {"levels": results.columns, "series": series}


def charts_of(results: Results) -> list[curves.Chart]:
    """The charts that some run has a line for."""
    levels = [] if results.levels == [ALL] else reversed(results.levels)
    rewards = [(f"{LEVEL_REWARD}{level}", f"Reward, level {level}", PANELS[LEVEL_REWARD]) for level in levels]
    first, *others = [(name, METRICS[name].label.capitalize(), PANELS[name]) for name in CURVES]
    each = curves.steps_a_point(run.metrics for runs in results.runs.values() for run in runs.values())
    charts = []
    for metric, title, panel in (first, *rewards, *others):
        lines = [
            over_seeds_of(name, number, list(results.runs[name].values()), metric)
            for number, name in enumerate(results.finished)
        ]
        if series := [line for line in lines if line]:
            charts.append(curves.Chart(title, panel.about, panel.unit, False, each, False, series))
    return charts


def over_seeds_of(name: str, number: int, runs: Sequence[RunResult], metric: str) -> curves.Series | None:
    """A run's curve: at each step the mean over the seeds that have it there, and their lowest and highest."""
    each = curves.steps_a_point(run.metrics for run in runs)
    by_step: dict[float, list[float]] = {}
    for run in runs:
        points = curves.binned(curves.points_of(run.metrics, metric), each)
        for x, y in curves.running_mean(points) if len(points) >= curves.SMOOTHED_FROM else points:
            by_step.setdefault(x, []).append(y)
    if not by_step:
        return None
    steps = sorted(by_step)
    means: list[curves.Point] = [(x, mean(by_step[x])) for x in steps]
    lows, highs = ([(x, end(by_step[x])) for x in steps] for end in (min, max))
    band = [(x, low, high) for (x, low), (_, high) in zip(curves.rounded(lows), curves.rounded(highs), strict=True)]
    return curves.Series(name, number, 0, None, curves.rounded(means), [], band if len(runs) > 1 else [])
