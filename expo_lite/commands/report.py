"""`expo-lite report`: one HTML file that shows what a run did, or several side by side."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError
from expo_lite.terminal import Terminal, say

NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write what a run did into one HTML file: figures, curves, samples and settings. Several runs share one page."""

    runs: tuple[Path, ...]
    """One or more run folders; several are drawn over one another."""
    output: Path | None = None
    """The HTML file to write. Default: report.html in the run folder, or beside the first of several runs."""

    def run(self) -> None:
        """Check, then write the file and say where it is."""
        if not self.runs:
            raise ConfigError("No run is named. Give at least one run folder: expo-lite report runs/NAME.")
        write_report(self.runs, self.output or default_output(self.runs), Terminal())


def write_report(runs: tuple[Path, ...], file: Path, console: Console) -> None:
    """Write the report of these runs, and say where it is and how it is opened.

    Raises:
        CheckpointError: a folder holds no run, a file of it is damaged, or the report cannot be written.
    """
    from expo_lite.report.page import render, write_document
    from expo_lite.results.record import read_runs

    page = render(read_runs(runs))
    size = write_document(page.html, file)
    left_out = f"; {page.n_all - page.n_kept:,} left out to stay below 5 MB" if page.n_kept < page.n_all else ""
    say(console, f"written to: {file} ({size / 1e6:.1f} MB, {page.n_kept:,} samples{left_out})")
    say(console, f"open in a browser: {file.absolute().as_uri()}")


def default_output(runs: tuple[Path, ...]) -> Path:
    """In the run's folder; of several runs, beside the first one."""
    return runs[0] / NAME if len(runs) == 1 else runs[0].parent / NAME
