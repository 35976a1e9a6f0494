"""What is seen while a run goes on: live bars on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from expo_lite.run.dashboard import SAMPLE_BYTES, curves, latest_pair, memory_line, side_by_side
from expo_lite.run.files import tail_rows
from expo_lite.run.sparks import clock
from expo_lite.terminal import say

PLAIN_SECONDS = 5.0
"""Without a terminal, at most one line in this time (and the first and last step's)."""
CALM_SECONDS = 10.0
"""Likewise of an evaluation."""
BAR_WIDTH = 30


class Display:
    """A context that shows the steps of a run."""

    def __init__(
        self,
        console: Console,
        total_steps: int,
        done_steps: int,
        *,
        rows: Sequence[Mapping[str, Any]] = (),
        samples: Path | None = None,
    ) -> None:
        """Show nothing yet.

        Args:
            console: where to; bars and curves on a terminal, plain lines elsewhere.
            total_steps: of the run.
            done_steps: before this process.
            rows: metrics of these.
            samples: the run's samples.jsonl, out of which the latest explanation is shown.
        """
        self.console = console
        self._rows, self._samples = list(rows), samples
        self._total = total_steps
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("steps", total=total_steps, completed=done_steps)
        self._live = Live(self._progress, console=console, transient=True) if console.is_terminal else None
        self._started, self._first, self._last_line = time.monotonic(), done_steps, 0.0

    def __enter__(self) -> "Display":
        """Start the live view, if there is a terminal."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the live view."""
        if self._live:
            self._live.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While this is open something else has the terminal."""
        if self._live:
            self._live.stop()
        yield
        if self._live:
            self._live.start()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a step that is done (counted from 1)."""
        self._progress.update(self._task, completed=step)
        if self._live:
            self._rows.append(metrics)
            pair = latest_pair(tail_rows(self._samples, SAMPLE_BYTES)) if self._samples else None
            below = [side_by_side(*pair)] if pair else []
            self._live.update(Group(self._progress, curves(self._rows, self.console.width), *below))
            return
        now = time.monotonic()
        if step == self._total or now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            left_s = (now - self._started) / max(step - self._first, 1) * (self._total - step)
            say(self.console, f"step {step}/{self._total} | {left_s:.0f} s left | {_line(metrics)}")


def _line(metrics: dict[str, float]) -> str:
    parts = []
    if "reward" in metrics:  # nothing is sampled where every problem has a kept pair
        parts += [
            f"reward {metrics['reward']:.3f}",
            f"all-wrong {metrics['frac_all_wrong']:.0%} mixed {metrics['frac_mixed']:.0%} all-right "
            f"{metrics['frac_all_correct']:.0%}",
        ]
    else:
        parts += [f"loss {metrics['expo/sft_loss']:.3f} nats a token"] if "expo/sft_loss" in metrics else []
    if "dpo_loss" in metrics:
        parts.append(f"{metrics['pairs/used']:.0f} pairs, loss {metrics['dpo_loss']:.3f}")
    if "expo/explanation_accept_rate" in metrics:
        parts.append(f"explanations accepted {metrics['expo/explanation_accept_rate']:.0%}")
    if metrics["sampling/tokens_per_s"]:
        parts.append(f"sampling {metrics['sampling/tokens_per_s']:,.0f} tok/s")
    if "update/tokens_per_s" in metrics:
        parts.append(f"update {metrics['update/tokens_per_s']:,.0f} tok/s")
    parts.append(memory_line(metrics))
    return " | ".join(parts)


@contextlib.contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """Say what is being done: with a clock that runs on a terminal, in one line elsewhere."""
    if not console.is_terminal:
        say(console, f"{what} ...")
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description} ...", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what)
        yield


class CompletionBar:
    """How many completions there are: called with those that are kept, told of others as they end."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        """Show nothing yet."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._console, self._title, self._total = console, title, total
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.progress.add_task(title, total=total)
        self._kept = self._ended = 0
        self._began = self._last_line = time.monotonic()
        self._first: int | None = None

    def __call__(self, n: int) -> None:
        """So many more are kept, graded."""
        self._kept, self._ended = self._kept + n, 0
        if self._first is None:
            self._first = n  # from before
        self._show()

    def ended(self, n: int) -> None:
        """So many more have been sampled."""
        self._ended += n
        self._show()

    def _show(self) -> None:
        done = min(self._kept + self._ended, self._total)
        self.progress.update(self._task, completed=done)
        now = time.monotonic()
        if self._console.is_terminal or now - self._last_line < CALM_SECONDS or done == self._total:
            return
        self._last_line, new = now, done - (self._first or 0)
        left = f", {clock((now - self._began) / new * (self._total - done))} left" if new else ""
        say(self._console, f"{self._title}: {done:,}/{self._total:,}{left}")


@contextlib.contextmanager
def completion_bar(console: Console, title: str, total: int) -> Iterator[CompletionBar]:
    """A bar on a terminal while this is open, a line now and then elsewhere."""
    bar = CompletionBar(console, title, total)
    with bar.progress:
        yield bar
