"""What is seen while a run goes on: live bars on a terminal, plain lines elsewhere."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from expo_lite.terminal import say

PLAIN_SECONDS = 5.0
"""Without a terminal, at most one line in this time (and the first and last step's)."""
BAR_WIDTH = 30
_SPARKS = "▁▂▃▄▅▆▇█"


class Display:
    """A context that shows the steps of a run."""

    def __init__(self, console: Console, total_steps: int, done_steps: int) -> None:
        """Show nothing yet."""
        self.console = console
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
            self._live.update(Group(self._progress, *_panel(metrics)))
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
    planned = f" (planned {metrics['memory/planned_gib']:.1f})" if "memory/planned_gib" in metrics else ""
    parts.append(f"peak {metrics['peak_memory_gib']:.1f} GiB{planned}")
    return " | ".join(parts)


def _panel(metrics: dict[str, float]) -> list[RenderableType]:
    bar = Text("groups  ")
    for name, style in (("frac_all_wrong", "red"), ("frac_mixed", "yellow"), ("frac_all_correct", "green")):
        bar.append("█" * round(metrics.get(name, 0.0) * BAR_WIDTH), style=style)
    bar.append("  all wrong / mixed / all right", style="dim")
    return [bar, Text(_line(metrics))]


def sparkline(values: Sequence[float]) -> str:
    """A row of small bars, for values between 0 and 1."""
    return "".join(_SPARKS[min(int(value * len(_SPARKS)), len(_SPARKS) - 1)] for value in values)


def binned(values: Sequence[float], n_bins: int) -> list[float]:
    """Means of at most `n_bins` stretches of about equal length; an empty list where there are no values."""
    n_bins = min(n_bins, len(values))
    if not values:
        return []
    edges = [round(i * len(values) / n_bins) for i in range(n_bins + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


@contextlib.contextmanager
def completion_bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal while this is open; gives the function that moves it on by so many completions."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda n: progress.advance(task, n)
