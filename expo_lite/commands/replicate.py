"""`expo-lite replicate`."""

from dataclasses import dataclass
from typing import Annotated

from expo_lite.commands.command import ConfiguredCommand, Inline
from expo_lite.replication.plan import read_plan
from expo_lite.settings.replicate import ReplicateConfig
from expo_lite.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Replicate(ConfiguredCommand):
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    settings: Annotated[ReplicateConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then carry it out."""
        plan = read_plan(self.settings)
        from expo_lite.replication.run import run_replicate

        run_replicate(plan, self.settings, Terminal())
