"""`expo-lite sweep` and `expo-lite replicate`: a plan of runs, carried out and compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from expo_lite.commands.command import ConfiguredCommand, Inline
from expo_lite.errors import ExpoLiteError
from expo_lite.settings.sweep import ReplicateConfig, RunsConfig, SweepConfig
from expo_lite.sweep.plan import REPLICATE, read_plan
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.sweep.plan import SweepPlan


@dataclass(frozen=True, kw_only=True)
class Sweep(ConfiguredCommand):
    """Carry out a plan of training runs, and compare them over seeds."""

    settings: Annotated[SweepConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then carry it out."""
        carry_out(read_plan(self.settings.plan, self.settings), self.settings, Terminal())


@dataclass(frozen=True, kw_only=True)
class Replicate(ConfiguredCommand):
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    settings: Annotated[ReplicateConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then carry it out."""
        carry_out(read_plan(self.settings.plan or Path(REPLICATE), self.settings), self.settings, Terminal())


def carry_out(plan: "SweepPlan", settings: RunsConfig, console: Console) -> None:
    """Carry out what is left of a plan, print its tables and write its files.

    Raises:
        ExpoLiteError: a part failed; what is finished is kept and compared.
    """
    from expo_lite.sweep.page import write_page
    from expo_lite.sweep.report import Outcome, answer_table, claim_table, level_table
    from expo_lite.sweep.run import run_sweep

    results, failures = run_sweep(plan, settings, console)
    outcome = Outcome.of(plan, results, failures)
    files = outcome.write()
    if outcome.judgements:
        console.print(claim_table(outcome.judgements))
    for heading, parts in outcome.asked.items():
        console.print(answer_table(heading, parts, results.hardest))
    console.print(level_table(results, results.k))
    if line := outcome.closing_line:
        say(console, line)
    for file in files:
        say(console, f"written to: {file}")
    say(console, f"open in a browser: {write_page(outcome).absolute().as_uri()}")
    if failures:
        raise ExpoLiteError(f"{len(failures)} of the plan's parts failed, see above; --resume tries them again.")
