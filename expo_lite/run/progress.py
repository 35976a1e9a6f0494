"""Progress while a command runs (a live view on a terminal, plain lines elsewhere), and requests to stop it."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
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

from expo_lite.run.dashboard import MEMORY, RunState, clock, panel
from expo_lite.run.folder import tail_rows
from expo_lite.settings.metrics import described
from expo_lite.terminal import say

LINE_SECONDS = 5.0
"""Without a terminal, at most one line in this time (and one for the first and the last step)."""
LINE = ("reward", "frac_all_wrong", "frac_mixed", "frac_all_correct", "expo/sft_loss", "pairs/used", "dpo_loss",
        "expo/explanation_accept_rate", "sampling/tokens_per_s", "update/tokens_per_s", *MEMORY)  # fmt: skip
"""Metrics of a plain line."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Display:
    """A context that shows the steps of a run."""

    def __init__(
        self,
        console: Console,
        total_steps: int,
        *,
        title: str = "",
        rows: Sequence[Mapping[str, Any]] = (),
        samples: Path | None = None,
    ) -> None:
        """Show the run so far: `rows` are the metrics of its steps, and `samples` its samples.jsonl."""
        self.console = console
        self._title, self._total, self._samples = title, total_steps, samples
        self.rows = list(rows)
        self._live = Live(console=console, transient=True) if console.is_terminal else None
        self._last_line = 0.0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.update(panel(self._state(), self.console.width))
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to something else while this is open."""
        if self._live:
            self._live.stop()
        yield
        if self._live:
            self._live.start(refresh=True)

    def step(self, row: Mapping[str, float]) -> None:
        """Show a row of metrics.jsonl, of a step that is done."""
        self.rows.append(row)
        state, now = self._state(), time.monotonic()
        if self._live:
            self._live.update(panel(state, self.console.width), refresh=True)
        elif state.step == self._total or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            left = f"{clock(state.seconds_left or 0.0)} left"
            say(self.console, " | ".join([f"step {state.step}/{self._total}", left, *described(row, LINE)]))

    def _state(self) -> RunState:
        samples = tail_rows(self._samples) if self._samples and self._live else ()
        return RunState(self._title, self._total, self.rows, samples)


@contextlib.contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """Say what is being done: with a running clock on a terminal, in one line elsewhere."""
    if not console.is_terminal:
        say(console, f"{what} ...")
    columns = (SpinnerColumn(), TextColumn("{task.description} ...", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what)
        yield


class CompletionBar(Progress):
    """A bar on a terminal while it is open, and a line now and then elsewhere.

    Call it with the completions that are graded and kept, and tell `ended` of those sampled.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        """Show nothing yet."""
        described = TextColumn("{task.description}", markup=False)
        columns = (described, BarColumn(30), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._title, self._total, self._bar = title, total, self.add_task(title, total=total)
        self._kept = self._ended = 0
        self._last_line = time.monotonic()

    def __call__(self, n: int) -> None:
        """Count `n` more as kept; those of the first call were there before."""
        self._kept, self._ended = self._kept + n, 0
        self._show()

    def ended(self, n: int) -> None:
        """Count `n` more as sampled."""
        self._ended += n
        self._show()

    def _show(self) -> None:
        done = min(self._kept + self._ended, self._total)
        self.update(self._bar, completed=done)
        now = time.monotonic()
        if self.console.is_terminal or now - self._last_line < LINE_SECONDS or done == self._total:
            return
        self._last_line, seconds = now, self.tasks[0].time_remaining
        left = "" if seconds is None else f", {clock(seconds)} left"
        say(self.console, f"{self._title}: {done:,}/{self._total:,}{left}")


class Stopped(Exception):
    """A stop was asked for, and the finished work is kept."""


class StopRequests:
    """A context in which the first Ctrl-C, SIGTERM or SIGHUP asks for a stop, and the second one interrupts.

    A signal that is ignored, as `nohup` ignores SIGHUP, stays so.
    """

    def __init__(self, console: Console) -> None:
        """Say on `console` that a request was heard."""
        self.console = console
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():  # no other thread may take signals
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def before(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Wrap a function so that it raises `Stopped` afterwards if a stop has been asked for."""

        def checked(n: int) -> None:
            advance(n)
            if self.requested:
                raise Stopped

        return checked

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Ctrl-C ends the reader of `train | tee` too, and a console without one exits
        with contextlib.suppress(SystemExit):
            say(self.console, "Finishing what is being computed and saving; press Ctrl-C again to stop at once.")
