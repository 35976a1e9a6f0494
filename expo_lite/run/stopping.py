"""Stopping in good order: the first Ctrl-C, SIGTERM or SIGHUP only asks, and the second one interrupts."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from rich.console import Console

from expo_lite.terminal import say

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(Exception):
    """A stop was asked for, and what has been done is kept."""


class StopRequests:
    """While this is open, a signal to stop is remembered, and answered at the next point where nothing is lost."""

    def __init__(self, console: Console) -> None:
        """Nothing is asked yet; `console` gets one line when it is."""
        self.console = console
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequests":
        """Take over the signals; only the main thread can, and where it does not, nobody asks for a stop."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def before(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """The same function, which raises `Stopped` afterwards where a stop has been asked for."""

        def checked(n: int) -> None:
            advance(n)
            if self.requested:
                raise Stopped

        return checked

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say(self.console, "Finishing what is being computed and saving; press Ctrl-C again to stop at once.")
