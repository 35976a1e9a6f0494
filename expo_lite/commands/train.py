"""The commands that start runs: `expo-lite train` one, `expo-lite sweep` and `expo-lite replicate` a plan of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console

from expo_lite.commands.arguments import path_of
from expo_lite.commands.command import ConfiguredCommand, Inline, import_torch
from expo_lite.errors import ExpoLiteError
from expo_lite.grading import Grader
from expo_lite.run.folder import RunFolder, check_new, settings_to_resume
from expo_lite.run.target import resolve_run
from expo_lite.settings.schema import merged
from expo_lite.settings.sweep import ReplicateConfig, RunsConfig, SweepConfig
from expo_lite.settings.train import TrainConfig, check_of_use
from expo_lite.sweep.plan import REPLICATE, read_plan
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.sweep.plan import SweepPlan


@dataclass(frozen=True, kw_only=True)
class Train(ConfiguredCommand):
    """Train a LoRA adapter with ExPO, and show what changed."""

    settings: Annotated[TrainConfig, Inline]

    @classmethod
    def before_flags(cls, words: Sequence[str], file: Path | None) -> dict[str, Any]:
        """Return the file's settings over those of the run that --resume continues."""
        own, folder = super().before_flags(words, file), path_of("--output", words)
        if "--resume" not in words or folder is None or not RunFolder(folder).config_file.exists():
            return own
        return merged(settings_to_resume(folder), own)

    def run(self) -> None:
        """Check the settings, read the problems, then train."""
        config = resolve_run(self.settings)
        if not config.resume:
            check_of_use(self.settings)
            check_new(config.output)
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
            console = Terminal()
            import_torch(console)
            from expo_lite.loop import train_on

            train_on(task, config, console)


@dataclass(frozen=True, kw_only=True)
class Sweep(ConfiguredCommand):
    """Carry out a plan of training runs, and compare them over seeds."""

    settings: Annotated[SweepConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then start its runs."""
        carry_out(read_plan(self.settings.plan, self.settings), self.settings, Terminal())


@dataclass(frozen=True, kw_only=True)
class Replicate(ConfiguredCommand):
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    settings: Annotated[ReplicateConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then start its runs."""
        carry_out(read_plan(self.settings.plan or Path(REPLICATE), self.settings), self.settings, Terminal())


def carry_out(plan: "SweepPlan", settings: RunsConfig, console: Console) -> None:
    """Run the rest of a plan, print its tables and write its files.

    Raises:
        ExpoLiteError: a run failed; finished ones are kept and compared.
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
