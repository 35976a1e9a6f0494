"""What is read first: a run in a sentence and in a few figures, first against last."""

from collections.abc import Sequence
from dataclasses import dataclass

from expo_lite.report.curves import points_of
from expo_lite.report.passes import Measurement, level_name
from expo_lite.results.record import RunRecord

ENDS = 10
"""First and last mean: over one part in so many of a run, and over 10 steps at most."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure; `before` and `after` are texts, `before` is empty where there is nothing to compare with."""

    name: str
    after: str
    before: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """A run at a glance."""

    label: str
    sentence: str
    tiles: list[Tile]


def overview(run: RunRecord, own: Sequence[Measurement]) -> Overview:
    """A run in a sentence and its tiles; `own` are its measurements, first and last."""
    settings = run.settings
    levels = settings.get("levels") or []
    on = (
        f"{settings.get('task')}, level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))}"
        if levels
        else settings.get("task")
    )
    planned = settings.get("steps")
    steps = f"{run.steps} of {planned} steps" if planned and planned != run.steps else f"{run.steps} steps"
    sentence = f"{settings.get('model')} by {settings.get('method')} on {on}; {steps}, seed {settings.get('seed')}."
    return Overview(run.label, sentence, [*_passes(own), *_trends(run), *_costs(run)])


def _passes(own: Sequence[Measurement]) -> list[Tile]:
    """The largest pass@k of the hardest level and of all."""
    if not own:
        return []
    last = own[-1]
    levels = list(last.figures)
    hardest = levels[-2] if len(levels) > 1 else levels[-1]
    tiles = []
    for level in dict.fromkeys((hardest, levels[-1])):
        name = list(last.figures[level])[-1]
        before = share(own[0].figures[level][name].value) if len(own) > 1 and level in own[0].figures else ""
        estimate = last.figures[level][name]
        note = f"95%: {100 * estimate.low:.0f} to {100 * estimate.high:.0f}"
        tiles.append(Tile(f"{name}, {level_name(level)}", share(estimate.value), before, note))
    return tiles


def _trends(run: RunRecord) -> list[Tile]:
    named = (
        ("reward", "Reward"),
        ("frac_all_wrong", "All-wrong groups"),
        ("expo/explanation_accept_rate", "Explanations accepted"),
        ("completions/clipped_ratio", "Truncated"),
    )
    tiles = []
    for name, title in named:
        values = [y for _, y in points_of(run.metrics, name)]
        if values:
            n = min(max(len(values) // ENDS, 1), 10)
            first, last = sum(values[:n]) / n, sum(values[-n:]) / n
            note = f"mean of {n} steps each" if n > 1 else "first and last step"
            tiles.append(Tile(title, share(last), share(first), note))
    return tiles


def _costs(run: RunRecord) -> list[Tile]:
    tiles = []
    times = [y for _, y in points_of(run.metrics, "step_time")]
    if times:
        tiles.append(Tile("Training time", duration(sum(times)), note=f"{sum(times) / len(times):.1f} s a step"))
    memory = [y for _, y in points_of(run.metrics, "peak_memory_gib")]
    planned = [y for _, y in points_of(run.metrics, "memory/planned_gib")]
    if memory:
        note = f"planned {max(planned):.1f} GiB" if planned else ""
        tiles.append(Tile("Peak memory", f"{max(memory):.1f} GiB", note=note))
    return tiles


def share(value: float) -> str:
    """In percent, with a decimal where it is small: '38%', '1.6%'."""
    return f"{value:.1%}" if 0 < value < 0.0995 else f"{value:.0%}"


def duration(seconds: float) -> str:
    """'48 s', '12 min', '3 h 05 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
