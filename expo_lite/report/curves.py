"""Curves of one or several runs, ready to be drawn: points, running means and labels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from expo_lite.results.record import RunRecord
from expo_lite.settings.metrics import PANELS, SECTIONS, Metric, Panel

MOST_POINTS = 300
"""A longer curve is drawn as means of equally many steps: a screen shows no more, and the file stays small."""
SMOOTHED_FROM = 40
"""Curves of so many points get a running mean; shorter ones are read as they are."""
SHARE = 20
"""A running mean is over one part in so many of a curve."""

MOST_DASHED = 2
"""The most metrics in a picture of several runs, where colours are the runs' and dashes tell metrics apart."""

Point = tuple[float, float]
Metrics = Sequence[Mapping[str, Any]]
"""The rows of a run's metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: `run` and `place` choose its colour and dashes; `means` is empty where `points` are few."""

    label: str
    run: int
    place: int
    colour: str | None
    points: list[Point]
    means: list[Point]
    band: list[tuple[float, float, float]] = field(default_factory=list)
    """Lowest and highest by step, where the line is a mean over seeds."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A panel with its series; a point stands for `each` steps.

    A chart that is not `named` has one series per run, which the title describes; a single run needs no legend.
    """

    title: str
    about: str
    unit: str
    stacked: bool
    each: int
    named: bool
    series: list[Series]


def sections(runs: Sequence[RunRecord]) -> list[tuple[str, list[Chart]]]:
    """All charts by section, without empty ones; metrics without a panel come last."""
    found = [
        (title, [chart(part, runs) for panel in panels for part in _parts(panel, runs)]) for title, panels in SECTIONS
    ]
    names = dict.fromkeys(name for run in runs for row in run.metrics for name in row if name != "step")
    families = tuple(name for name in PANELS if name.endswith("/"))
    rest = [name for name in names if name not in PANELS and not name.startswith(families)]
    found.append(("Other metrics", [chart(Panel(name, "", "", (Metric(name, name),)), runs) for name in rest]))
    kept = [(title, [chart for chart in charts if chart.series]) for title, charts in found]
    return [(title, charts) for title, charts in kept if charts]


def steps_a_point(runs: Iterable[Metrics]) -> int:
    """Return how many steps a point stands for, so that the longest of the runs has at most MOST_POINTS."""
    return max(1, math.ceil(max(map(len, runs)) / MOST_POINTS))


def chart(panel: Panel, runs: Sequence[RunRecord]) -> Chart:
    """One panel of these runs."""
    each = steps_a_point(run.metrics for run in runs)
    lines = _members(panel, runs)
    named = len(lines) > 1 or any(metric.name.endswith("/") for metric in panel.metrics)
    series = []
    for number, run in enumerate(runs):
        for place, metric in enumerate(lines):
            points = binned(points_of(run.metrics, metric.name, panel.whole), each)
            if points:
                line = metric.line or metric.label
                label = line if len(runs) == 1 else f"{run.label}: {line}" if named else run.label
                means = running_mean(points) if len(points) >= SMOOTHED_FROM else []
                series.append(Series(label, number, place, metric.colour, rounded(points), rounded(means)))
    stacked = panel.stacked and len(runs) == 1
    return Chart(panel.title, panel.about, panel.unit, stacked, each, named, series)


def points_of(rows: Metrics, name: str, whole: str | None = None) -> list[Point]:
    """A metric by step, where finite; if the run ever has it, its absence beside the metric `whole` means 0."""
    if whole is not None and not any(name in row for row in rows):
        return []
    values = ((row["step"], row.get(name, 0.0 if whole in row else None)) for row in rows)
    return [(float(step), float(value)) for step, value in values if value is not None and math.isfinite(value)]


def binned(points: Sequence[Point], each: int) -> list[Point]:
    """Means over stretches of `each` points, at the mean of their steps; the last stretch may be shorter."""
    if each == 1:
        return list(points)
    stretches = (points[i : i + each] for i in range(0, len(points), each))
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """The mean over neighbours at each point, equally many on either side; fewer towards the ends."""
    reach = max(len(points) // SHARE // 2, 1)
    around = [min(reach, i, len(points) - 1 - i) for i in range(len(points))]
    near = [points[i - n : i + n + 1] for i, n in enumerate(around)]
    return [(x, sum(y for _, y in part) / len(part)) for (x, _), part in zip(points, near, strict=True)]


def _parts(panel: Panel, runs: Sequence[RunRecord]) -> list[Panel]:
    """A panel as it is, or with a picture for each of its metrics where those of several runs would be too many."""
    lines = _members(panel, runs)
    if len(runs) == 1 or len(lines) <= MOST_DASHED:
        return [panel]
    return [replace(panel, title=f"{panel.title}: {each.line or each.label}", metrics=(each,)) for each in lines]


def _members(panel: Panel, runs: Sequence[RunRecord]) -> list[Metric]:
    """The metrics of a panel, families replaced by those of their members that are not named in the table."""
    found, names = list[Metric](), sorted({name for run in runs for row in run.metrics for name in row} - PANELS.keys())
    for metric in panel.metrics:
        members = [Metric(n, metric.label + n.removeprefix(metric.name)) for n in names if n.startswith(metric.name)]
        found += members if metric.name.endswith("/") else [metric]
    return found


def rounded(points: Sequence[Point]) -> list[Point]:
    """Round to five digits, more than a screen shows."""
    return [(round(x, 1), float(f"{y:.5g}")) for x, y in points]
