"""The commands that show runs from their folders: `expo-lite report` as a page, `expo-lite watch` live."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from expo_lite.commands.command import Command, Printing
from expo_lite.commands.sweep import show_sweep
from expo_lite.errors import ConfigError
from expo_lite.results.paired import Comparison, compare
from expo_lite.results.record import RunRecord, read_runs
from expo_lite.results.tables import comparison_tables
from expo_lite.run.dashboard import closing, closing_of_runs, panel, read_progress, read_state, runs_panel
from expo_lite.run.folder import RunFolder, read_config, run_folders
from expo_lite.sweep.plan import kept_plan
from expo_lite.terminal import Terminal, say

NAME = "report.html"
LISTED = 10
"""The number of problems won, and of problems lost, that the terminal lists; --json has all."""
EVERY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Report(Printing):
    """Write what runs did into one HTML file, and compare each further run with the first one.

    Example: expo-lite report runs/first runs/second
    """

    runs: tuple[Path, ...]
    """One or more run folders; several are drawn over one another and compared, problem by problem.
    The folder of a sweep is reported as the sweep does; any other folder stands for the runs in it."""
    output: Path | None = None
    """The HTML file to write. Default: report.html in the run folder, or beside the first of several runs."""

    def run(self) -> None:
        """Write the page, then print the comparison and where the page is.

        Raises:
            CheckpointError: a folder holds no run, a file of it is damaged, or the page cannot be written.
        """
        if not self.runs:
            raise ConfigError("No run is named. Give at least one run folder: expo-lite report runs/NAME.")
        console = self.messages()
        if len(self.runs) == 1 and (plan := kept_plan(self.runs[0])):
            from expo_lite.sweep.run import collect_results, unfinished

            show_sweep(self, plan, collect_results(plan), unfinished(plan), self.output)
            return
        from expo_lite.report.page import render, write_document

        folders = run_folders(self.runs)
        runs = read_runs(folders)
        file = self.output or (folders[0] if len(runs) == 1 else folders[0].parent) / NAME
        html, samples = render(runs)
        size = write_document(html, file)
        comparisons = [compare(runs[0], other) for other in runs[1:]]
        tables = (part for each in comparisons for part in comparison_tables(each, show=LISTED))
        self.show(tables, {"page": str(file)} | as_json(runs, comparisons))
        n_left_out = samples.n_all - samples.n_kept
        left_out = f"; {n_left_out:,} left out to stay below 5 MB" if n_left_out else ""
        say(console, f"written to: {file} ({size / 1e6:.1f} MB, {samples.n_kept:,} samples{left_out})")
        say(console, f"open in a browser: {file.absolute().as_uri()}")


def as_json(runs: Sequence[RunRecord], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the last figures of each run, and the comparisons, as JSON values."""
    found = []
    for run in runs:
        levels = [asdict(row) for each in run.evaluated[-1:] for row in each.evaluation.levels]
        found.append({"label": run.label, "folder": str(run.path), "steps": run.steps, "levels": levels})
    return {"runs": found, "comparisons": [comparison.to_json() for comparison in comparisons]}


@dataclass(frozen=True, kw_only=True)
class Watch(Command):
    """Show what a run is doing until it ends, or once without a terminal: curves, explanations, time left, memory.

    Example: expo-lite watch runs/first
    """

    folder: Path
    """The folder of a run, of a sweep, or of several runs."""

    def run(self) -> None:
        """Read the folder again every second, and end when its runs do; Ctrl-C ends only the watching."""
        console, last = Terminal(), None
        planned: list[tuple[Path, int]] = []
        with Live(console=console, auto_refresh=False) as live:
            while last is None:
                view, last = self.look(console.width, planned, waiting=console.is_terminal)
                # without a terminal the view's last line is left open, so it is an empty one
                live.update(view if console.is_terminal else Group(view, ""), refresh=True)
                if not console.is_terminal:
                    break
                time.sleep(EVERY_SECONDS if last is None else 0)
        if last is not None:
            say(console, last)

    def look(
        self, width: int, planned: list[tuple[Path, int]], *, waiting: bool = False
    ) -> tuple[RenderableType, str | None]:
        """Return what is seen now, and the last line if it is over; a run may be `waiting` for its start.

        The runs of a sweep are put into `planned` when they are first read, for that takes a second.
        """
        if not planned and (plan := kept_plan(self.folder)):
            planned += [(each.output, each.steps) for each in plan.configs()]
        runs = planned or [(path, 0) for path in run_folders([self.folder])]
        if runs == [(self.folder, 0)]:
            if waiting and not RunFolder(self.folder).config_file.exists():
                return Text(f"waiting for a run in '{self.folder}' to start; Ctrl-C ends"), None
            RunFolder(self.folder).check_is_run()
            state = read_state(self.folder)
            return panel(state, width), closing(state, self.folder)
        several = read_progress(planned or [(path, read_config(path).steps) for path, _ in runs])
        newest = (panel(state, width) for state in several.at_work[-1:])
        return Group(runs_panel(several), *newest), closing_of_runs(several, self.folder)
