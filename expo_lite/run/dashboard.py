"""The dashboard of a run, read from its folder alone: for `expo-lite watch`, and for `train` on a terminal.

Files may be read while they are written: a last line that is not whole yet is left out.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from expo_lite.errors import CheckpointError
from expo_lite.run.checkpoint import step_of
from expo_lite.run.folder import LOCK, RunFolder, read_config, read_json, resuming, tail_rows
from expo_lite.settings.metrics import METRICS, PANELS, described, percent, text_of
from expo_lite.settings.train import RunConfig
from expo_lite.terminal import command, side_by_side, visible, visible_line

CURVES = ("reward", "frac_all_wrong", "expo/explanation_accept_rate", "expo/sft_loss", "dpo_loss",
          "completions/mean_length", "completions/clipped_ratio")  # fmt: skip
"""Metrics that have a curve if the run has them."""
MEMORY = ("peak_memory_gib", "memory/planned_gib")
MOST_SPARKS = 40
TEXT_LINES = 8
"""The most lines that are shown of each of the two samples."""
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class RunState:
    """A run at one moment."""

    title: str
    steps: int
    """Steps to be done in all."""
    metrics: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]] = ()
    """The latest samples, oldest first."""
    evaluated: tuple[str, ...] = ()
    """Steps that have been measured, with the figure: 'step 0 pass@1 3.1%'."""
    alive: bool = True
    finished: bool = False

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def seconds_left(self) -> float | None:
        """The time that the other steps will take, by the last twenty."""
        times = [float(row["step_time"]) for row in self.metrics[-20:] if "step_time" in row]
        return (self.steps - self.step) * sum(times) / len(times) if times else None


def read_state(path: Path) -> RunState:
    """Read the folder of a run.

    Raises:
        CheckpointError: there is no run in the folder, or one of its files is damaged.
    """
    folder, config = RunFolder(path), read_config(path)
    metrics = folder.metrics.read()
    last = int(metrics[-1]["step"]) if metrics else 0
    measured = not config.evaluation.eval_problems or folder.evaluation_file(last).exists()
    return RunState(
        title=title_of(path, config),
        steps=config.steps,
        metrics=metrics,
        samples=tail_rows(folder.samples.path),
        evaluated=tuple(_measured(file) for file in folder.evaluation_files()),
        alive=holder_lives(path),
        finished=last >= config.steps and measured,
    )


@dataclass(frozen=True, slots=True)
class RunsState:
    """Several runs at one moment, of a sweep or of a folder."""

    total: int
    n_finished: int
    done: float
    """Finished runs, and the done parts of the others."""
    at_work: tuple[RunState, ...]
    seconds_left: float | None
    """The time left for all runs, estimated from the steps done so far; None before the first step."""

    @property
    def counted(self) -> str:
        """The runs that are finished, of all."""
        return f"{self.n_finished} of {self.total} runs"

    def __str__(self) -> str:
        if not self.seconds_left or self.n_finished == self.total:
            return self.counted
        return f"{self.counted}, about {duration(self.seconds_left)} left"


def read_progress(runs: Sequence[tuple[Path, int]]) -> RunsState:
    """Read how far these runs are, given as folders, which may be missing, and steps to be done."""
    shares, took, at_work = [], [], []
    for path, steps in runs:
        folder = RunFolder(path)
        if not folder.config_file.exists():
            continue
        if folder.evaluation_file(steps).exists() or (state := read_state(path)).finished:
            shares.append(1.0)
            took.append(_seconds_of(path))
            continue
        shares.append(min(state.step / max(steps, 1), 0.99))  # it is still to be evaluated
        took += [_seconds(state.metrics) / shares[-1]] if state.step else []
        if state.alive:
            at_work.append(state)
    left = median(took) * (len(runs) - sum(shares)) / max(len(at_work), 1) if took else None
    return RunsState(len(runs), shares.count(1.0), sum(shares), tuple(at_work), left)


@cache
def _seconds_of(finished: Path) -> float:
    return _seconds(RunFolder(finished).metrics.read())


def _seconds(metrics: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(row.get("step_time", 0)) for row in metrics)


def runs_panel(state: RunsState) -> Table:
    """A bar for all runs, and one for each that is at work."""
    table = Table.grid(padding=(0, 1))
    table.add_row("all", ProgressBar(total=max(state.total, 1), completed=state.done, width=24), str(state))
    for run in state.at_work:
        table.add_row(Text(visible_line(run.title.partition(":")[0]), overflow="fold"), *_bar_cells(run))
    return table


def title_of(path: Path, config: RunConfig) -> str:
    """Name a run with its model, method, task and seed."""
    levels = f", level {', '.join(map(str, config.levels))}" if config.levels else ""
    return f"{path.name}: {config.model} by {config.method} on {config.task}{levels}, seed {config.seed}"


def panel(state: RunState, width: int) -> RenderableType:
    """The run at a glance, `width` columns wide."""
    bar = Table.grid(padding=(0, 1))
    bar.add_row("steps", *_bar_cells(state))
    parts: list[RenderableType] = [Text(visible_line(state.title), style="bold"), bar]
    if state.evaluated:
        parts.append(Text(f"measured: {'; '.join(state.evaluated[-4:])}", style="dim"))
    if state.metrics:
        parts.append(_curves(state.metrics, width))
    if pair := _latest_pair(state.samples):
        parts.append(pair)
    return Group(*parts)


def _bar_cells(state: RunState) -> tuple[RenderableType, str]:
    """Steps done, with the time left."""
    left = "" if state.seconds_left is None else f"{clock(state.seconds_left)} left"
    if state.step >= state.steps and not state.finished:
        left = "being evaluated"  # which has a clock of its own where it runs
    drawn = ProgressBar(total=max(state.steps, 1), completed=state.step, width=24)
    return drawn, f"{state.step:,}/{state.steps:,} {left}"


def _curves(metrics: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """A small curve of each metric, with the means of its first and last fortieth; then the memory."""
    drawn = {name: values for name in CURVES if (values := [float(row[name]) for row in metrics if name in row])}
    means = {name: binned(values, MOST_SPARKS) for name, values in drawn.items()}
    ends = {name: f"{text_of(name, each[0])} -> {text_of(name, each[-1])}" for name, each in means.items()}
    taken = max((len(METRICS[name].label) for name in drawn), default=0) + max(map(len, ends.values()), default=0) + 4
    table = Table.grid(padding=(0, 2))
    for name, values in drawn.items():
        top = 1.0 if PANELS[name].unit == "share" else max(*values, 1e-9)
        sparks = sparkline([x / top for x in binned(values, min(max(width - taken, 1), MOST_SPARKS))])
        table.add_row(Text(METRICS[name].label, style="dim"), sparks, ends[name])
    return Group(table, Text.assemble(("memory  ", "dim"), ", ".join(described(metrics[-1], MEMORY))))


def _latest_pair(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """A wrong completion beside the latest accepted explanation (else the latest) of the same problem."""
    wrong = {(row["step"], row["problem_id"]): row for row in rows if row["kind"] == "rollout" and not row["correct"]}
    explained = [r for r in rows if r["kind"] == "explanation" and (r["step"], r["problem_id"]) in wrong]
    explained = [row for row in explained if row.get("accepted")] or explained
    if not explained:
        return None
    explanation = explained[-1]
    verdict = "accepted" if explanation.get("accepted") else f"refused: {explanation.get('refusal')}"
    step, problem_id = explanation["step"], explanation["problem_id"]
    texts = {}
    for heading, row in (("a wrong try", wrong[step, problem_id]), (f"an explanation ({verdict})", explanation)):
        lines = visible(str(row["completion"]).strip()).splitlines()
        more = [f"... {len(lines) - TEXT_LINES} more lines"] if len(lines) > TEXT_LINES else []
        texts[heading] = Text("\n".join([*lines[:TEXT_LINES], *more]))
    return side_by_side(texts, f"step {step}, {problem_id}: the answer is {explanation['gold']}")


def closing(state: RunState, path: Path) -> str | None:
    """Return the last line of a dashboard; None while the run goes on."""
    if state.finished:
        return f"The run has finished: {command('report', path)}"
    return None if state.alive else broken_off(path, state.step, state.steps)


def closing_of_runs(state: RunsState, path: Path) -> str | None:
    """Return the last line of a dashboard of several runs; None while one is at work or still to come."""
    if state.n_finished == state.total:
        return f"All {state.total} runs are finished: {command('report', path)}"
    if state.at_work or holder_lives(path):
        return None
    return f"Nobody is working on these runs: {state.n_finished} of {state.total} are finished."


def broken_off(path: Path, step: int, steps: int) -> str:
    """Say that a run is not finished and that no process writes it."""
    done = f"{step} of {steps} steps"
    return f"Nobody is writing this run, and it is not finished ({done}). Continue it: {resuming(path)}"


def holder_lives(path: Path) -> bool:
    """Return whether the process that last held the folder still exists."""
    try:
        os.kill(int((path / LOCK).read_text(encoding="ascii")), 0)
    except PermissionError:
        return True  # another user's
    except (OSError, ValueError):
        return False
    return True


def _measured(file: Path) -> str:
    """The step of an evaluation, and pass@1 of all held-out problems."""
    step = step_of(file)
    try:
        return f"step {step} pass@1 {percent(read_json(file)['levels'][-1]['avg']['value'])}"
    except (CheckpointError, LookupError, TypeError):
        return f"step {step}: damaged"


def sparkline(values: Sequence[float]) -> str:
    """A row of small bars, for values between 0 and 1."""
    return "".join(_SPARKS[min(int(value * len(_SPARKS)), len(_SPARKS) - 1)] for value in values)


def binned(values: Sequence[float], n_bins: int) -> list[float]:
    """Means of at most `n_bins` stretches of about equal length; an empty list if there are no values."""
    n_bins = min(n_bins, len(values))
    edges = [round(i * len(values) / n_bins) for i in range(n_bins + 1)] if values else []
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def clock(seconds: float) -> str:
    """'0:42', '12:05', '3:20:00'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """'48 s', '12 min', '3 h 05 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
