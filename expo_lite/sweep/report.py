"""The results of a sweep as tables on the console, in Markdown, JSON and an HTML page; claims come first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from expo_lite.report import curves
from expo_lite.report.overview import percents
from expo_lite.report.page import document, write_document
from expo_lite.results.figures import Evaluation
from expo_lite.results.statistics import Estimate, finite
from expo_lite.results.tables import interval_cell
from expo_lite.run.folder import write_atomically, write_json
from expo_lite.run.metrics import mean
from expo_lite.settings.metrics import LEVEL_REWARD, METRICS, PANELS
from expo_lite.sweep.claims import Claim, ClaimVerdict, Part, judge_claims
from expo_lite.sweep.plan import SweepPlan
from expo_lite.sweep.results import BASE, Results, RunResult
from expo_lite.terminal import heads_and_rows, markdown, new_table, visible_line

STYLES = {ClaimVerdict.HOLDS: "green", ClaimVerdict.FAILS: "red", ClaimVerdict.UNDECIDED: "yellow"}
COSTS = {"num_tokens": "sampled tokens", "num_scored_tokens": "scored tokens", "step_time": "seconds of steps"}
EXPLANATIONS = {"expo/explanation_accept_rate": "accepted", "expo/explanation_valid_rate": "of these valid"}
"""Means over the steps: of the explanations, those accepted; of these, those whose steps are right."""
STEPS = "right steps"
"""The share of samples of all levels that are right in every step, where the task can check steps."""
CURVES = ("reward", "frac_all_wrong", "expo/explanation_accept_rate", "expo/nll_explanation", "loss", "grad_norm", "kl",
          "completions/mean_length", "completions/clipped_ratio")  # fmt: skip
"""Metrics that are drawn; the rewards of levels come after the first."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """A plan and its results. Only a replication has claims."""

    plan: SweepPlan
    results: Results
    failures: Mapping[str, str]
    claims: list[Claim]

    @classmethod
    def of(cls, plan: SweepPlan, results: Results, failures: Mapping[str, str]) -> "SweepReport":
        """Judge the claims of a replication."""
        return cls(plan, results, failures, judge_claims(results) if plan.diagnose_problems else [])

    @property
    def title(self) -> str:
        """The plan, its model and its task."""
        config = self.plan.any_config
        title = "The paper's claims" if self.claims else f"Sweep {self.plan.name}"
        return visible_line(f"{title} on {config.model}, {config.task}")

    @property
    def sentence(self) -> str:
        """Say how much was measured, and how the figures are to be read."""
        before = self.results.before
        row, seeds = before.levels[0], self.plan.seeds
        alone = " With one seed the intervals carry problems only, and another seed may turn a verdict."
        judged = f", and judged on pass@{self.results.k}" if self.claims else ""
        return (
            f"Seeds {', '.join(map(str, seeds))}; {row.n_samples} samples a problem at temperature "
            f"{before.temperature}, {row.n_problems} held-out problems a level. Percent, with 95% intervals that carry "
            f"seeds and problems; differences are paired by both{judged}.{alone * (len(seeds) == 1)}"
        )

    def judged(self) -> list[Table]:
        """The claims, and what each run is compared with; a verdict stands in a row's last cell."""
        claims = new_table("", "claim", "paper", "ours", "", title="The paper's claims", justify="left")
        for c in self.claims:
            claims.add_row(str(c.number), c.statement, c.paper, c.inapplicable or "", verdict_cell(c.verdict))
            for part in c.parts:
                claims.add_row("", f"· {part.statement}", "", part.figure, verdict_cell(part.verdict))
        tables = [claims] if self.claims else []
        return tables + [self.against(run) for run in self.plan.against if run in self.results.runs]

    def against(self, theirs: str) -> Table:
        """pass@1 of each run minus that of one, by level, and right steps; the verdict is on the hardest level."""
        results = self.results
        steps = [STEPS] * results.knows_steps
        heads = ("run", *results.columns, *steps, "seeds", f"at {results.hardest}")
        table = new_table(*heads, title=f"Against {theirs}: the difference of pass@1 by level")
        for ours, figures in differences(results, theirs).items():
            hardest, cells = figures[results.hardest], [interval_cell(each, signed=True) for each in figures.values()]
            verdict = "above" if hardest.low > 0 else "below" if hardest.high < 0 else ClaimVerdict.UNDECIDED
            table.add_row(ours, *cells, str(results.n_seeds(ours, theirs)), verdict)
        return table

    def accuracies(self) -> list[Table]:
        """pass@1 and pass@k of the base and of every finished run, by level."""
        tables, results = [], self.results
        for k in sorted({1, results.k}):
            heads = ("run", *results.columns, f"at {results.hardest}, by seed")
            tables.append(new_table(*heads, title=f"pass@{k} by level"))
            for name, figures in figures_by_level(results, k).items():
                each = ", ".join(f"{100 * one:.1f}" for one in results.by_seed(name, results.hardest, k))
                tables[-1].add_row(name, *map(interval_cell, figures), each)
        return tables

    def validity(self) -> list[Table]:
        """The held-out samples that are right in every step, and explanations, if the task can check steps."""
        results, title = self.results, "Right in every step: held-out samples; explanations, lowest to highest"
        if not results.knows_steps:
            return []
        table = new_table("run", *results.columns, *EXPLANATIONS.values(), title=title)
        for name in (BASE, *results.runs):
            rates = [None if name == BASE else results.average(name, metric) for metric in EXPLANATIONS]
            table.add_row(name, *map(interval_cell, [*(results.valid(name, c) for c in results.columns), *rates]))
        return [table]

    def costs(self) -> Table:
        """Seeds, sampled tokens, tokens scored beside the update, and seconds of every finished run."""
        table = new_table("run", "seeds", *COSTS.values(), title="Cost: mean over seeds, lowest to highest")
        for name in self.results.runs:
            totals = [self.results.total(name, metric) for metric in COSTS]
            cells = [interval_cell(total, scale=1, digits=0) for total in totals]
            table.add_row(name, str(self.results.n_seeds(name)), *cells)
        return table

    def tables(self) -> list[Table]:
        """All of it, in the order of the page."""
        return [*self.judged(), *self.accuracies(), *self.validity(), self.costs()]

    def write(self, page: Path | None = None) -> list[Path]:
        """Write Markdown and JSON into the plan's folder, the page there too unless it is given; return the files.

        Raises:
            CheckpointError: one cannot be written.
        """
        stem = self.plan.folder / ("replication" if self.claims else "sweep")
        text, data, page = stem.with_suffix(".md"), stem.with_suffix(".json"), page or self.plan.folder / "report.html"
        write_atomically(text, "\n".join([f"# {self.title}\n", f"{self.sentence}\n", *map(markdown, self.tables())]))
        write_json(data, self.to_json())
        write_document(render(self), page)
        return [text, data, page]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values; the right samples of every problem, so that any figure can be made anew."""
        results, config = self.results, self.plan.any_config
        passed = {k: figures_by_level(results, k) for k in sorted({1, results.k})}
        runs: dict[str, dict[str, Any]] = {}
        for name in (BASE, *results.runs):
            runs[name] = {"seeds": sorted(results.runs.get(name, ()))}
            for k, by_run in passed.items():
                runs[name][f"pass@{k}"] = dict(zip(results.columns, map(asdict, by_run[name]), strict=True))
            if name != BASE:
                runs[name] |= {metric: asdict(results.total(name, metric)) for metric in COSTS}
                runs[name]["correct"] = {seed: counts(run.after) for seed, run in results.runs[name].items()}
        runs[BASE]["correct"] = counts(results.before)
        return {
            "model": config.model,
            "task": config.task,
            "seeds": self.plan.seeds,
            "n_samples": results.before.levels[0].n_samples,
            "claims": [
                {name: getattr(claim, name) for name in ("number", "statement", "paper", "verdict")}
                | {"parts": list(map(part_json, claim.parts))}
                for claim in self.claims
            ],
            "against": {
                theirs: {
                    ours: {level: asdict(each) for level, each in figures.items()} for ours, figures in rows.items()
                }
                for theirs in self.plan.against
                if (rows := differences(results, theirs))
            },
            "runs": runs,
            "failures": self.failures,
        }


def verdict_cell(verdict: ClaimVerdict) -> Text:
    """A verdict in its colour."""
    return Text(verdict, STYLES.get(verdict, ""))


def counts(evaluation: Evaluation) -> dict[str, str]:
    """The number of right samples of each problem, by level, in the order in which the problems were asked."""
    by_level: dict[str, list[str]] = {}
    for problem in evaluation.problems:
        by_level.setdefault(str(problem.level), []).append(str(problem.n_correct))
    return {level: " ".join(numbers) for level, numbers in by_level.items()}


def part_json(part: Part) -> dict[str, Any]:
    """A part as plain JSON values; an open end of its interval is null, for JSON knows no infinity."""
    return {**finite(asdict(part)), "verdict": part.verdict}


def figures_by_level(results: Results, k: int) -> dict[str, list[Estimate]]:
    """pass@k by level of the base and of every finished run."""
    return {name: [results.accuracy(name, level, k) for level in results.columns] for name in (BASE, *results.runs)}


def differences(results: Results, theirs: str) -> dict[str, dict[str, Estimate]]:
    """pass@1 by level of each run minus that of one, and `STEPS`; of the runs that share a seed with it."""
    others = [run for run in results.runs if run != theirs and results.n_seeds(run, theirs)]
    found = {run: {level: results.difference(run, theirs, level, 1) for level in results.columns} for run in others}
    for run in others if results.knows_steps else ():
        found[run][STEPS] = results.valid_difference(run, theirs, results.columns[-1])
    return found


def render(report: SweepReport) -> str:
    """The page: verdicts, accuracy by level, curves with bands over seeds, costs, and what differs."""
    results, names = report.results, list(report.results.runs)
    charts = charts_of(results)
    return document(
        "sweep.html.j2",
        scripts=("charts.js", "save.js", "page.js"),
        figures={
            "runs": names,
            "last": max(row["step"] for runs in results.runs.values() for run in runs.values() for row in run.metrics),
            "passes": bars(results),
            "charts": [asdict(chart) for chart in charts],
        },
        title=report.title,
        report=report,
        verdicts=list(ClaimVerdict),
        runs=names,
        charts=charts,
        folder=report.plan.folder / "runs",
        texts=heads_and_rows,
    )


def bars(results: Results) -> dict[str, Any]:
    """The picture by level, in percent: the untrained model, then every run."""
    tables = {f"pass@{k} by level": figures_by_level(results, k) for k in sorted({1, results.k})}
    series = [
        {
            "label": "before training" if name == BASE else name,
            "run": max(number, 0),
            "before": name == BASE,
            "values": {table: list(map(percents, rows[name])) for table, rows in tables.items()},
        }
        for number, name in enumerate((BASE, *results.runs), -1)
    ]
    return {"levels": results.columns, "series": series}


def charts_of(results: Results) -> list[curves.Chart]:
    """The charts that some run has a line for."""
    rewards = [f"{LEVEL_REWARD}{level}" for level in results.levels[::-1]]
    each = curves.steps_a_point(run.metrics for runs in results.runs.values() for run in runs.values())
    charts = []
    for metric in (CURVES[0], *rewards, *CURVES[1:]):
        lines = [
            over_seeds_of(name, number, list(results.runs[name].values()), metric)
            for number, name in enumerate(results.runs)
        ]
        if series := [line for line in lines if line]:
            title = METRICS[metric].label if metric in METRICS else metric.replace(LEVEL_REWARD, "reward, level ")
            panel = PANELS.get(metric, PANELS[LEVEL_REWARD])
            charts.append(curves.Chart(title.capitalize(), panel.about, panel.unit, False, each, False, series))
    return charts


def over_seeds_of(name: str, number: int, runs: Sequence[RunResult], metric: str) -> curves.Series | None:
    """A run's curve: at each step the mean over the seeds that have it there, and their lowest and highest."""
    each = curves.steps_a_point(run.metrics for run in runs)
    by_step: dict[float, list[float]] = {}
    for run in runs:
        points = curves.binned(curves.points_of(run.metrics, metric), each)
        for x, y in curves.rounded(curves.running_mean(points) if len(points) >= curves.SMOOTHED_FROM else points):
            by_step.setdefault(x, []).append(y)
    means = curves.rounded([(x, mean(by_step[x])) for x in sorted(by_step)])
    band = [(x, min(by_step[x]), max(by_step[x])) for x in sorted(by_step)] if len(runs) > 1 else []
    return curves.Series(name, number, 0, None, means, [], band) if by_step else None
