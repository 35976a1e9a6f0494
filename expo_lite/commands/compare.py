"""`expo-lite compare`: in which settings two runs differ, and which held-out problems became better or worse."""

from dataclasses import dataclass
from pathlib import Path

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError
from expo_lite.terminal import Terminal, say


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Say in which settings two runs differ, and which held-out problems were won and lost."""

    first: Path
    """The run folder to start from."""
    second: Path
    """The run folder to compare with it: differences are this one minus the first."""
    show: int = 10
    """How many of the problems won, and how many of those lost, are listed."""

    def run(self) -> None:
        """Check, then print the comparison."""
        if self.show < 0:
            raise ConfigError(f"show must be at least 0, not {self.show}.")
        compare(self.first, self.second, self.show)


def compare(first_run: Path, second_run: Path, show: int) -> None:
    """Print the comparison.

    Raises:
        CheckpointError: a folder holds no run, or a file of it is damaged.
    """
    from expo_lite.results.paired import compare as compare_runs
    from expo_lite.results.record import read_runs
    from expo_lite.results.tables import comparison_tables

    console = Terminal()
    for part in comparison_tables(compare_runs(*read_runs([first_run, second_run])), show=show):
        if isinstance(part, str):
            say(console, part)
        else:
            console.print(part)
    say(console, f"both drawn over one another: expo-lite report {first_run} {second_run}")
