"""The beginning of a report: each run in a sentence and a few figures, and accuracy before and after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expo_lite.records import ALL, level_order
from expo_lite.report.curves import Chart, Series, points_of
from expo_lite.results.paired import Pairing, pair
from expo_lite.results.record import Evaluated, RunRecord
from expo_lite.results.statistics import Estimate
from expo_lite.run.dashboard import duration
from expo_lite.settings.metrics import percent

GREEDY = "greedy"
LEADING = "pass@1"
"""The figure that comes first everywhere: on the terminal, in `watch` and here."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One evaluation, drawn in one colour: `figures` by level, then by name (greedy, pass@1, ...)."""

    label: str
    run: int
    before: bool
    n_problems: dict[str, int]
    figures: dict[str, dict[str, Estimate]]


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure in words; `before` is empty if there is nothing to compare with."""

    name: str
    after: str
    before: str = ""
    note: str = ""


def sentence(run: RunRecord) -> str:
    """A run in a sentence."""
    settings = run.settings
    levels = settings.get("levels") or []
    on = ", levels ".join(filter(None, (settings.get("task"), ", ".join(map(str, levels)))))
    planned = settings.get("steps")
    steps = f"{run.steps} of {planned} steps" if planned and planned != run.steps else f"{run.steps} steps"
    return f"{settings.get('model')} by {settings.get('method')} on {on}; {steps}, seed {settings.get('seed')}."


def tiles(run: RunRecord) -> list[Tile]:
    """pass@1 of the hardest level and of all, before and after training, and what the training took."""
    own, found = measurements([run]), []
    for level in list(own[-1].figures)[-2:] if own else ():
        before = percent(own[0].figures[level][LEADING].value) if len(own) > 1 and level in own[0].figures else ""
        estimate = own[-1].figures[level][LEADING]
        note = f"95%: {percent(estimate.low)} to {percent(estimate.high)}"
        found.append(Tile(f"{LEADING}, {level_name(level)}", percent(estimate.value), before, note))
    times, memory = ([y for _, y in points_of(run.metrics, name)] for name in ("step_time", "peak_memory_gib"))
    if times:
        found.append(Tile("Training time", duration(sum(times)), note=f"{sum(times) / len(times):.1f} s a step"))
    if memory:
        found.append(Tile("Peak memory", f"{max(memory):.1f} GiB"))
    return found


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
    """The picture of accuracies: value, low and high in percent, by figure, measurement and level."""
    levels, names = levels_of(measured), names_of(measured)
    series = []
    for m in measured:
        rows = [m.figures.get(level) for level in levels]
        values = {name: [percents(row[name]) if row else None for row in rows] for name in names}
        series.append({"label": m.label, "run": m.run, "before": m.before, "values": values})
    return {"levels": levels, "names": names, "series": series}


def over_training(runs: Sequence[RunRecord]) -> list[Chart]:
    """pass@1 by step, a chart per level, of runs that were measured on the way."""
    if max((len(run.evaluated) for run in runs), default=0) < 3:
        return []
    several, charts = len(runs) > 1, []
    rows = [(i, e.step, row) for i, run in enumerate(runs) for e in run.evaluated for row in e.evaluation.levels]
    for level in sorted({row.level for *_, row in rows}, key=level_order):
        series = []
        for i, run in enumerate(runs):
            points = [(float(step), row.pass_at[1].value) for n, step, row in rows if (n, row.level) == (i, level)]
            series.append(Series(run.label if several else LEADING, i, 0, None, points, []))
        title = f"{LEADING}, {level_name(level)}"
        charts.append(Chart(title, "Held-out problems.", "share", False, 1, several, series))
    return charts


def pairings_within(runs: Sequence[RunRecord]) -> list[Pairing]:
    """Last minus first evaluation of each run that has both."""
    found = []
    for run in runs:
        title = "The same problems, after minus before" + ("" if len(runs) == 1 else f": {run.label}")
        problems = [each.evaluation.problems for each in run.evaluated]
        if len(problems) > 1 and (pairing := pair(title, problems[0], problems[-1])):
            found.append(pairing)
    return found


def level_name(level: str) -> str:
    """Name a level in words: 'level 3', 'all problems'; a word stands for itself."""
    return "all problems" if level == ALL else f"level {level}" if level.isdecimal() else level


def _measurement(label: str, run: int, before: bool, evaluated: Evaluated) -> Measurement:
    evaluation = evaluated.evaluation
    figures = {
        result.level: {GREEDY: result.greedy} | {f"pass@{k}": estimate for k, estimate in result.pass_at.items()}
        for result in evaluation.levels
    }
    n_problems = {result.level: result.n_problems for result in evaluation.levels}
    return Measurement(label, run, before, n_problems, figures)


def percents(estimate: Estimate) -> list[float]:
    """Value, low and high in percent, to be drawn."""
    return [round(100 * x, 2) for x in (estimate.value, estimate.low, estimate.high)]
