"""`expo-lite tasks`."""

from dataclasses import dataclass

from rich import box
from rich.table import Table

from expo_lite.commands.command import Command
from expo_lite.tasks import TASKS
from expo_lite.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Tasks(Command):
    """List the tasks, and where their problems come from."""

    def run(self) -> None:
        """Print the tables."""
        about = Table("task", "problems", box=box.SIMPLE)
        origins = Table("task", "license", "expert chains", "held-out split", box=box.SIMPLE)
        for table in (about, origins):
            for column in table.columns:
                column.overflow = "fold"
        for kind, spec in TASKS.items():
            about.add_row(spec.shape, spec.about)
            origins.add_row(kind, spec.license, spec.chains, spec.held_out)
        console = Terminal()
        console.print(about)
        console.print(origins)
