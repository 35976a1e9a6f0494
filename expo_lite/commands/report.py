"""The commands that show runs from their folders: `expo-lite report` as a page, `expo-lite watch` live."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.live import Live

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError
from expo_lite.run.dashboard import closing, panel, read_state
from expo_lite.run.folder import RunFolder
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.results.paired import Comparison
    from expo_lite.results.record import RunRecord

NAME = "report.html"
LISTED = 10
"""The number of problems won, and of problems lost, that the terminal lists; --json has all."""
EVERY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write what runs did into one HTML file, and compare each further run with the first one.

    Example: expo-lite report runs/first runs/second
    """

    runs: tuple[Path, ...]
    """One or more run folders; several are drawn over one another and compared, problem by problem."""
    output: Path | None = None
    """The HTML file to write. Default: report.html in the run folder, or beside the first of several runs."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print figures, settings that differ and paired differences as JSON."""

    def run(self) -> None:
        """Write the page, then print the comparison and where the page is.

        Raises:
            CheckpointError: a folder holds no run, a file of it is damaged, or the page cannot be written.
        """
        if not self.runs:
            raise ConfigError("No run is named. Give at least one run folder: expo-lite report runs/NAME.")
        from expo_lite.report.page import render, write_document
        from expo_lite.results.paired import compare
        from expo_lite.results.record import read_runs
        from expo_lite.results.tables import comparison_tables

        console, runs = Terminal(), read_runs(self.runs)
        file = self.output or (self.runs[0] if len(runs) == 1 else self.runs[0].parent) / NAME
        page = render(runs)
        size = write_document(page.html, file)
        comparisons = [compare(runs[0], other) for other in runs[1:]]
        if self.json:
            console.print_json(json.dumps({"page": str(file)} | as_json(runs, comparisons)), indent=2)
            return
        for comparison in comparisons:
            for part in comparison_tables(comparison, show=LISTED):
                if isinstance(part, str):
                    say(console, part)
                else:
                    console.print(part)
        left_out = f"; {page.n_all - page.n_kept:,} left out to stay below 5 MB" if page.n_kept < page.n_all else ""
        say(console, f"written to: {file} ({size / 1e6:.1f} MB, {page.n_kept:,} samples{left_out})")
        say(console, f"open in a browser: {file.absolute().as_uri()}")


def as_json(runs: Sequence["RunRecord"], comparisons: Sequence["Comparison"]) -> dict[str, Any]:
    """Return the last figures of each run, and the comparisons, as JSON values."""
    found = []
    for run in runs:
        levels = [asdict(level) for evaluated in run.evaluated[-1:] for level in evaluated.evaluation.levels]
        found.append({"label": run.label, "folder": str(run.path), "steps": run.steps, "levels": levels})
    return {"runs": found, "comparisons": [comparison.to_json() for comparison in comparisons]}


@dataclass(frozen=True, kw_only=True)
class Watch(Command):
    """Show what a run is doing until it ends, or once without a terminal: curves, explanations, time left, memory.

    Example: expo-lite watch runs/first
    """

    folder: Path
    """The run folder."""

    def run(self) -> None:
        """Read the folder again every second, and end when the run does; Ctrl-C ends only the watching."""
        console = Terminal()
        RunFolder(self.folder).check_is_run()
        state = read_state(self.folder)
        if not console.is_terminal:
            console.print(panel(state, console.width))
        else:
            with Live(console=console, auto_refresh=False, transient=False) as live:
                while True:
                    live.update(panel(state, console.width), refresh=True)
                    if closing(state, self.folder) is not None:
                        break
                    time.sleep(EVERY_SECONDS)
                    state = read_state(self.folder)
        if (line := closing(state, self.folder)) is not None:
            say(console, line)
