"""What a run is doing, read off its folder alone: for `expo-lite watch`, and for `train` on a terminal.

Files may be read while they are written: a last line that is not whole yet is left out.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from expo_lite.run.files import tail_rows
from expo_lite.run.folder import LOCK, RunFolder, read_config, resuming
from expo_lite.run.sparks import binned, clock, sparkline
from expo_lite.settings.machine import on_windows
from expo_lite.terminal import visible, visible_line

CURVES = (
    ("reward", "reward", "share"),
    ("frac_all_wrong", "all-wrong groups", "share"),
    ("expo/explanation_accept_rate", "explanations accepted", "share"),
    ("expo/sft_loss", "loss on chains, nats", "number"),
    ("dpo_loss", "DPO loss", "number"),
    ("completions/mean_length", "length, tokens", "number"),
    ("completions/clipped_ratio", "cut off", "share"),
)
"""Metrics that have a curve where the run has them: name, label, and whether it is a share of 1."""
MOST_SPARKS, LEAST_SPARKS = 40, 12
TEXT_LINES = 8
"""Of each of the two samples."""
LATELY_S = 600.0
SAMPLE_BYTES = 400_000
"""From the end of samples.jsonl, where the latest step's samples are looked for."""


@dataclass(frozen=True, slots=True)
class RunState:
    """A run at one moment."""

    label: str
    about: str
    steps: int
    """To be done in all."""
    metrics: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]] = ()
    """The latest ones, oldest first."""
    evaluating: "Evaluating | None" = None
    alive: bool = True
    finished: bool = False
    evaluated: list[tuple[int, str]] = field(default_factory=list)
    """Steps that have been measured, with the figure in words."""

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0


@dataclass(frozen=True, slots=True)
class Evaluating:
    """An evaluation that goes on: completions done, of how many, and for how long, seconds."""

    step: int
    done: int
    total: int
    seconds: float


def read_state(path: Path) -> RunState:
    """What the folder says now.

    Raises:
        CheckpointError: there is no run in the folder, or one of its files is damaged.
    """
    folder, config = RunFolder(path), read_config(path)
    metrics = folder.metrics.read()
    on = f" on {config.task}" + (f", level {', '.join(map(str, config.levels))}" if config.levels else "")
    evaluated = sorted(int(file.stem.removeprefix("step-")) for file in (path / "evaluation").glob("step-*.json"))
    last = int(metrics[-1]["step"]) if metrics else 0
    measures = bool(config.evaluation.eval_problems)
    finished = last >= config.steps and (not measures or folder.evaluation_file(last).exists())
    return RunState(
        label=path.name,
        about=f"{config.model} by {config.method}{on}, seed {config.seed}",
        steps=config.steps,
        metrics=metrics,
        samples=tail_rows(folder.samples.path, SAMPLE_BYTES),
        evaluating=_evaluating(path / "evaluation"),
        alive=holder_lives(path),
        finished=finished,
        evaluated=[(step, _measured(folder.evaluation_file(step))) for step in evaluated],
    )


def panel(state: RunState, width: int) -> RenderableType:
    """The run at a glance, `width` columns wide."""
    parts: list[RenderableType] = [Text(visible_line(f"{state.label}: {state.about}"), style="bold"), progress(state)]
    if state.metrics:
        parts.append(curves(state.metrics, width))
    if pair := latest_pair(state.samples):
        parts.append(side_by_side(*pair))
    return Group(*parts)


def progress(state: RunState) -> RenderableType:
    """Steps done with the time left, and below it the evaluation that goes on, if one does."""
    times = [float(row["step_time"]) for row in state.metrics[-20:] if "step_time" in row]
    left = (state.steps - state.step) * sum(times) / len(times) if times else None
    rows = [("steps", state.step, state.steps, left)]
    if (now := state.evaluating) is not None:
        rest = now.seconds / now.done * (now.total - now.done) if now.done and now.seconds else None
        rows.append((f"evaluating at step {now.step}", now.done, now.total, rest))
    table = Table.grid(padding=(0, 1))
    for name, done, total, seconds in rows:
        bar = ProgressBar(total=max(total, 1), completed=done, width=24)
        table.add_row(name, bar, f"{done:,}/{total:,}", "" if seconds is None else f"{clock(seconds)} left")
    measured = "; ".join(f"step {step} {figure}" for step, figure in state.evaluated[-4:])
    return Group(table, *([Text(f"measured: {measured}", style="dim")] if measured else []))


def curves(metrics: Sequence[Mapping[str, Any]], width: int) -> Table:
    """A small curve of each metric, from the first step to the last, with its latest value."""
    n_sparks = max(min(width - 52, MOST_SPARKS), LEAST_SPARKS)
    table = Table.grid(padding=(0, 2))
    for name, label, kind in CURVES:
        values = [float(row[name]) for row in metrics if name in row]
        if not values:
            continue
        bins = binned(values, n_sparks)
        top = 1.0 if kind == "share" else max(max(values), 1e-9)
        first, last = (f"{x:.0%}" if kind == "share" else f"{x:.3g}" for x in (bins[0], bins[-1]))
        table.add_row(Text(label, style="dim"), sparkline([x / top for x in bins]), f"{first} -> {last}")
    table.add_row(Text("memory", style="dim"), "", memory_line(metrics[-1]))
    return table


def latest_pair(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The latest explanation that was accepted (else the latest), and a wrong completion of the same problem."""
    wrong = {(row["step"], row["problem_id"]): row for row in rows if row["kind"] == "rollout" and not row["correct"]}
    explained = [r for r in rows if r["kind"] == "explanation" and (r["step"], r["problem_id"]) in wrong]
    explained = [row for row in explained if row.get("accepted")] or explained
    if not explained:
        return None
    return wrong[explained[-1]["step"], explained[-1]["problem_id"]], explained[-1]


def side_by_side(wrong: Mapping[str, Any], explanation: Mapping[str, Any]) -> Table:
    """A wrong try beside the explanation that is learned from; each cut to some lines."""
    verdict = "accepted" if explanation.get("accepted") else f"refused: {explanation.get('refusal')}"
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), title_justify="left", title_style="dim")
    table.title = f"step {explanation['step']}, {explanation['problem_id']}: the answer is {explanation['gold']}"
    for heading in ("a wrong try", f"an explanation ({verdict})"):
        table.add_column(heading, ratio=1)
    table.add_row(*(_cut(str(row["completion"])) for row in (wrong, explanation)))
    return table


def closing(state: RunState, path: Path) -> str | None:
    """What to say once nothing more will come; None while the run goes on."""
    if state.finished:
        return f"The run has finished: expo-lite report {path}"
    if state.alive:
        return None
    return broken_off(path, state.step, state.steps)


def broken_off(path: Path, step: int, steps: int) -> str:
    """What to say of a run that is not finished, and that nobody writes."""
    done = f"{step} of {steps} steps"
    return f"Nobody is writing this run, and it is not finished ({done}). Continue it: {resuming(path)}"


def _cut(text: str) -> Text:
    lines = visible(text.strip()).splitlines()
    more = [f"... {len(lines) - TEXT_LINES} more lines"] if len(lines) > TEXT_LINES else []
    return Text("\n".join([*lines[:TEXT_LINES], *more]))


def memory_line(row: Mapping[str, Any]) -> str:
    """The measured peak beside the planned one, in words."""
    planned = f" (planned {row['memory/planned_gib']:.1f})" if "memory/planned_gib" in row else ""
    return f"peak {row['peak_memory_gib']:.1f} GiB{planned}" if "peak_memory_gib" in row else ""


def _evaluating(folder: Path) -> Evaluating | None:
    """The evaluation whose samples come in and whose figures are not there yet."""
    for samples in sorted(folder.glob("step-*/samples.jsonl")):
        name = samples.parent.name
        if not name.removeprefix("step-").isdecimal() or (folder / f"{name}.json").exists():
            continue
        try:
            about = json.loads((samples.parent / "config.json").read_text(encoding="utf-8"))["settings"]
            total = int(about["n_problems"]) * (int(about["n_samples"]) + bool(about["greedy"]))
            began = (samples.parent / "config.json").stat().st_mtime
            done = samples.read_bytes().count(b"\n")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written
        return Evaluating(int(name.removeprefix("step-")), done, total, time.time() - began)
    return None


def _measured(file: Path) -> str:
    """The smallest pass@k of all held-out problems, in words; '' where the file cannot be read now."""
    try:
        row = json.loads(file.read_text(encoding="utf-8"))["levels"][-1]
        k = min(row["pass_at"], key=int)
        return f"pass@{k} {row['pass_at'][k]['value']:.1%}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""


def holder_lives(path: Path) -> bool:
    """Whether the process that last held the folder is still there; on Windows, whether a file was written lately.

    There os.kill would end whatever process has the number.
    """
    if on_windows():
        return any(time.time() - file.stat().st_mtime < LATELY_S for file in path.glob("*.jsonl"))
    try:
        os.kill(int((path / LOCK).read_text(encoding="ascii")), 0)
    except PermissionError:
        return True  # somebody else's
    except (OSError, ValueError):
        return False
    return True
