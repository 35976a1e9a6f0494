"""Greedy accuracy and pass@k by level, before and after training: for the picture, and for the table below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expo_lite.records import ALL, level_order
from expo_lite.report.curves import Chart, Series
from expo_lite.results.figures import Evaluation
from expo_lite.results.paired import Pairing, pair
from expo_lite.results.record import Evaluated, RunRecord
from expo_lite.results.statistics import Estimate

GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One evaluation as one colour: `figures` by level, then by name (greedy, pass@1, ...)."""

    label: str
    run: int
    before: bool
    step: int
    n_problems: dict[str, int]
    figures: dict[str, dict[str, Estimate]]


def measurements(runs: Sequence[RunRecord]) -> list[Measurement]:
    """First and last evaluation of each run; runs that start from the same figures share their first."""
    found: list[Measurement] = []
    several = len(runs) > 1
    shared = several and len({str(run.evaluated[0].evaluation) for run in runs if run.evaluated}) == 1
    for number, run in enumerate(runs):
        ends = run.evaluated if len(run.evaluated) < 2 else (run.evaluated[0], run.evaluated[-1])
        for place, evaluated in enumerate(ends):
            before = place == 0 and evaluated.step == 0
            if before and shared and any(m.before for m in found):
                continue
            when = "before" if before else f"after step {evaluated.step}"
            label = when if not several or (before and shared) else f"{run.label}, {when}"
            found.append(_measurement(label, number, before, evaluated))
    return found


def levels_of(measured: Sequence[Measurement]) -> list[str]:
    """All levels in their order."""
    return sorted({level for m in measured for level in m.figures}, key=level_order)


def names_of(measured: Sequence[Measurement]) -> list[str]:
    """The figures that all have: greedy, then pass@k by k."""
    per_level = [set(figures) for m in measured for figures in m.figures.values()]
    common = set.intersection(*per_level) if per_level else set()
    return sorted(common, key=lambda name: (name != GREEDY, int(name.partition("@")[2] or 0)))


def picture(measured: Sequence[Measurement]) -> dict[str, Any]:
    """What the page draws: value, low and high in percent, by figure, measurement and level."""
    levels, names = levels_of(measured), names_of(measured)
    return {
        "levels": levels,
        "names": names,
        "series": [
            {
                "label": m.label,
                "run": m.run,
                "before": m.before,
                "values": {
                    name: [percents(m.figures[level][name]) if level in m.figures else None for level in levels]
                    for name in names
                },
            }
            for m in measured
        ],
    }


def over_training(runs: Sequence[RunRecord]) -> list[Chart]:
    """Pass@k of the largest k by step, a picture a level, where runs were measured on the way."""
    if max((len(run.evaluated) for run in runs), default=0) < 3:
        return []
    measured = [_measurement("", i, False, e) for i, run in enumerate(runs) for e in run.evaluated]
    names = names_of(measured)
    charts = []
    for level in levels_of(measured):
        points: dict[int, list[tuple[float, float]]] = {}
        for m in measured:
            if level in m.figures:
                points.setdefault(m.run, []).append((float(m.step), m.figures[level][names[-1]].value))
        series = [
            Series(runs[i].label if len(runs) > 1 else names[-1], i, 0, None, own, []) for i, own in points.items()
        ]
        charts.append(
            Chart(f"{names[-1]}, {level_name(level)}", "Held-out problems.", "share", False, 1, len(runs) > 1, series)
        )
    return charts


def pairings_within(runs: Sequence[RunRecord]) -> list[Pairing]:
    """Last minus first evaluation of each run that has counts by problem in both."""
    found = []
    for run in runs:
        counted = [evaluated.evaluation.problems for evaluated in run.evaluated if evaluated.evaluation.problems]
        title = "The same problems, after minus before" + ("" if len(runs) == 1 else f": {run.label}")
        if len(counted) > 1 and (pairing := pair(title, counted[0], counted[-1])):
            found.append(pairing)
    return found


def level_name(level: str) -> str:
    """As it is said: 'level 3', 'all problems'; a word stands for itself."""
    return "all problems" if level == ALL else f"level {level}" if level.isdecimal() else level


def _measurement(label: str, run: int, before: bool, evaluated: Evaluated) -> Measurement:
    evaluation: Evaluation = evaluated.evaluation
    figures = {
        result.level: {GREEDY: result.greedy} | {f"pass@{k}": estimate for k, estimate in result.pass_at.items()}
        for result in evaluation.levels
    }
    n_problems = {result.level: result.n_problems for result in evaluation.levels}
    return Measurement(label, run, before, evaluated.step, n_problems, figures)


def percents(estimate: Estimate) -> list[float]:
    """Value, low and high in percent, as they are drawn."""
    return [round(100 * x, 2) for x in (estimate.value, estimate.low, estimate.high)]
