"""A sweep as one HTML file: verdicts, accuracy by level, curves with bands over seeds, costs, and what differs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo_lite.records import ALL
from expo_lite.report.curves import (
    SMOOTHED_FROM,
    Chart,
    Point,
    Series,
    binned,
    points_of,
    rounded,
    running_mean,
    steps_a_point,
)
from expo_lite.report.overview import percents
from expo_lite.report.page import document, write_document
from expo_lite.results.record import differing_in
from expo_lite.results.statistics import Estimate
from expo_lite.run.metrics import mean
from expo_lite.settings.metrics import LEVEL_REWARD, METRICS, PANELS
from expo_lite.settings.schema import flat, to_json
from expo_lite.sweep.plan import FIXED
from expo_lite.sweep.report import Outcome, cost_rows, figures_by_level
from expo_lite.sweep.results import BASE, Results, RunResult

NAME = "report.html"
DRAWN_FIRST = 6
"""So many runs are drawn until others are chosen: as many as there are colours."""
CURVES = ("reward", "frac_all_wrong", "expo/explanation_accept_rate", "expo/nll_explanation", "loss", "grad_norm", "kl",
          "completions/mean_length", "completions/clipped_ratio")  # fmt: skip
"""Metrics that are drawn; the rewards of levels come after the first."""


def write_page(outcome: Outcome) -> Path:
    """Write the page into the plan's folder; returns the file.

    Raises:
        CheckpointError: it cannot be written.
    """
    file = outcome.plan.folder / NAME
    write_document(render(outcome), file)
    return file


def render(outcome: Outcome) -> str:
    """The page of all runs that have finished."""
    results, names = outcome.results, outcome.results.finished
    charts = curves(results)
    tables = {f"pass@{k}": figures_by_level(results, k) for k in sorted({1, results.k})}
    return document(
        "sweep.html.j2",
        scripts=("charts.js", "page.js"),
        figures={
            "runs": names,
            "last": max(row["step"] for runs in results.runs.values() for run in runs.values() for row in run.metrics),
            "passes": bars(results, tables),
            "charts": [chart.to_json() for chart in charts],
        },
        title=outcome.title,
        sentence=outcome.sentence,
        closing=outcome.closing_line,
        failures=outcome.failures,
        claims=outcome.judgements,
        questions=outcome.asked,
        hardest=results.hardest,
        runs=names,
        names=names,
        shown=range(DRAWN_FIRST),
        levels=results.columns,
        tables=tables,
        charts=charts,
        cost=cost_rows(results),
        folder=outcome.plan.folder / "runs",
        differing=differing_in([_settings(outcome, name) for name in names]),
    )


def bars(results: Results, tables: Mapping[str, Mapping[str, Sequence[Estimate | None]]]) -> dict[str, Any]:
    """What the picture by level draws, in percent: the untrained models, then every run."""
    bases, names = results.bases, results.finished
    first = [next(number for number, name in enumerate(names) if results.base_of(name) == base) for base in bases]
    series = [
        {
            "label": "before training" if name == BASE else name,
            "run": number,
            "before": name in bases,
            "values": {table: [found and percents(found) for found in rows[name]] for table, rows in tables.items()},
        }
        for name, number in zip((*bases, *names), (*first, *range(len(names))), strict=True)
    ]
    return {"levels": results.columns, "series": series}


def curves(results: Results) -> list[Chart]:
    """The charts that some run has a line for."""
    levels = [] if results.levels == [ALL] else reversed(results.levels)
    rewards = [(f"{LEVEL_REWARD}{level}", f"Reward, level {level}", PANELS[LEVEL_REWARD]) for level in levels]
    first, *others = [(name, METRICS[name].label.capitalize(), PANELS[name]) for name in CURVES]
    each = steps_a_point(run.metrics for runs in results.runs.values() for run in runs.values())
    charts = []
    for metric, title, panel in (first, *rewards, *others):
        series = [
            one
            for number, name in enumerate(results.finished)
            if (one := over_seeds_of(name, number, list(results.runs[name].values()), metric))
        ]
        if series:
            charts.append(Chart(title, panel.about, panel.unit, False, each, False, series))
    return charts


def over_seeds_of(name: str, number: int, runs: Sequence[RunResult], metric: str) -> Series | None:
    """A run's curve: at each step the mean over the seeds that have it there, and their lowest and highest."""
    each = steps_a_point(run.metrics for run in runs)
    by_step: dict[float, list[float]] = {}
    for run in runs:
        points = binned(points_of(run.metrics, metric), each)
        for x, y in running_mean(points) if len(points) >= SMOOTHED_FROM else points:
            by_step.setdefault(x, []).append(y)
    if not by_step:
        return None
    steps = sorted(by_step)
    means: list[Point] = [(x, mean(by_step[x])) for x in steps]
    lows, highs = ([(x, end(by_step[x])) for x in steps] for end in (min, max))
    band = [(x, low, high) for (x, low), (_, high) in zip(rounded(lows), rounded(highs), strict=True)]
    return Series(name, number, 0, None, rounded(means), [], band if len(runs) > 1 else [])


def _settings(outcome: Outcome, name: str) -> dict[str, Any]:
    config = outcome.plan.config(name, outcome.plan.seeds[0])
    return {key: value for key, value in flat(to_json(config)) if key not in FIXED}
