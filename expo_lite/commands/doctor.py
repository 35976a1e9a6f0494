"""`expo-lite doctor`: find problems of this machine, or of runs, and say what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from expo_lite.commands.checks import Check, machine_checks
from expo_lite.commands.command import Command
from expo_lite.errors import ExpoLiteError
from expo_lite.run.dashboard import broken_off, holder_lives
from expo_lite.run.folder import read_config
from expo_lite.settings.metrics import described
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.results.record import RunRecord

WIDTH = len("problem")
FIGURES = ("reward", "frac_all_wrong", "frac_all_correct", "completions/clipped_ratio", "expo/explanation_accept_rate",
           "kl", "sampling/logp_difference/mean")  # fmt: skip
"""The metrics of a healthy run's last step to print."""


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Find problems of this machine, or of runs, and say what to do. The exit code is 1 if there is a problem."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders to look at, finished or not. Default: look at this machine."""
    skip_training: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out the training self-test, which takes up to 30 s."""

    def run(self) -> None:
        """Print a line for each check.

        Raises:
            CheckpointError: a folder holds no run, or one of its files is damaged.
            ExpoLiteError: there is a problem; it has been printed.
        """
        from expo_lite.results.record import read_runs

        console = Terminal()
        checks = machine_checks(training=not self.skip_training)
        if self.runs:
            checks = (check for record in read_runs(self.runs) for check in run_checks(record))
        problems = sum(show(check, console) for check in checks)
        if problems:
            what = f"{problems} problem{'s' if problems > 1 else ''}"
            raise ExpoLiteError(f"The doctor has found {what}; the lines above say what to do.")


def run_checks(run: "RunRecord") -> Iterator[Check]:
    """Return every finding of a run as a problem, or its main figures in one line."""
    from expo_lite.report.findings import run_findings

    found, steps = run_findings(run), read_config(run.path).steps
    for finding in found:
        where = ", ".join(filter(None, (run.label, finding.where)))
        yield Check("problem", f"{finding.what} ({where}: {finding.figures}).", finding.remedy)
    if not run.metrics:
        yield Check("warning", f"{run.label}: no step is done yet.", "Look again later, or go on with --resume.")
    elif run.steps < steps and not holder_lives(run.path):
        yield Check("warning", f"{run.label}: {broken_off(run.path, run.steps, steps)}")
    elif not found:
        row = {name: value for name, value in run.metrics[-1].items() if isinstance(value, int | float)}
        last = f"Step {run.steps} of {run.settings.get('steps')}: {', '.join(described(row, FIGURES))}"
        yield Check("ok", f"{run.label}: nothing wrong is found. {last}.")


def show(check: Check, console: Console) -> bool:
    """Print one check, with what to do below it; return whether it is a problem."""
    say(console, f"{check.state:<{WIDTH}}  {check.what}")
    if check.remedy:
        say(console, f"{'':<{WIDTH}}  {check.remedy}")
    return check.state == "problem"
