"""`expo-lite watch`: a run's dashboard, from its folder alone, in another terminal or afterwards."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.live import Live

from expo_lite.commands.command import Command
from expo_lite.run.dashboard import closing, panel, read_state
from expo_lite.run.folder import RunFolder
from expo_lite.terminal import Terminal, say

EVERY_SECONDS = 1.0
WAIT_SECONDS = 60.0
"""For the folder of a run that is only just starting: it is made once the model is loaded."""


@dataclass(frozen=True, kw_only=True)
class Watch(Command):
    """Show what a run is doing, until it ends: curves, an explanation beside a wrong try, time left, memory."""

    folder: Path
    """The run folder."""
    once: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show it once and end. Without a terminal it is always shown once."""

    def run(self) -> None:
        """Read the folder again every second, and end when the run does; Ctrl-C ends the watching alone."""
        console = Terminal()
        wait_for_run(self.folder, console if console.is_terminal and not self.once else None)
        state = read_state(self.folder)
        if self.once or not console.is_terminal:
            console.print(panel(state, console.width))
        else:
            with Live(console=console, auto_refresh=False, transient=False) as live:
                while True:
                    live.update(panel(state, console.width), refresh=True)
                    if closing(state, self.folder) is not None:
                        break
                    time.sleep(EVERY_SECONDS)
                    state = read_state(self.folder)
        if (said := closing(state, self.folder)) is not None:
            say(console, said)


def wait_for_run(path: Path, console: Console | None) -> None:
    """Wait for a folder that is not there yet, where there is a console to say so on.

    Raises:
        CheckpointError: there is no run in it, or it did not come.
    """
    folder = RunFolder(path)
    if console is not None and not os.path.exists(path):  # which no name is too long for
        say(console, f"There is no folder '{path}' yet. Waiting {WAIT_SECONDS:.0f} s for it; Ctrl-C ends.")
        until = time.monotonic() + WAIT_SECONDS
        while not os.path.exists(folder.config_file) and time.monotonic() < until:
            time.sleep(EVERY_SECONDS)
    folder.check_is_run()
