"""`expo-lite compare`: in which settings two runs differ, and which held-out problems became better or worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError
from expo_lite.results.record import shown
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.results.paired import Change, PairedLevel
    from expo_lite.results.record import RunRecord

KS = (1, 4, 16, 64)
KS_A_TABLE = 3
"""More columns than these do not fit into 80 characters."""


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
    from expo_lite.results.paired import best_pairing, ks_of, lost, paired_levels, won
    from expo_lite.results.record import differing, read_runs

    console = Terminal()
    first, second = runs = read_runs([first_run, second_run])
    console.print(settings_table(differing(runs), first.label, second.label))
    pairing = best_pairing(first, second)
    if pairing is None:
        _unpaired(runs, console)
        return
    ours, theirs, changes = pairing
    wanted = sorted({*KS, *(k for run in runs for k in run.settings.get("evaluation.k") or ())})
    ks = ks_of(changes, wanted)
    title = f"{second.label} minus {first.label}: {len(changes):,} problems, {ours.where}"
    title += "" if ours.where == theirs.where else f" and {theirs.where}"
    say(console, title)
    for i in range(0, len(ks), KS_A_TABLE):
        console.print(difference_table(paired_levels(changes, ks), ks[i : i + KS_A_TABLE]))
    say(console, "Percent; below, the paired difference with its 95% interval. Bold: not chance.\n")
    _list(f"won (right in {second.label} alone)", won(changes), show, console)
    _list(f"lost (right in {first.label} alone)", lost(changes), show, console)
    say(console, f"both drawn over one another: expo-lite report {first.path} {second.path}")


def settings_table(differences: Sequence[tuple[str, list[Any]]], first: str, second: str) -> Table | str:
    """The settings that differ, each in a row."""
    if not differences:
        return "The settings are the same.\n"
    table = Table(title="settings that differ", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("", first, second):
        table.add_column(name, overflow="fold")
    for name, values in differences:
        table.add_row(name, *(shown(value) for value in values))
    return table


def difference_table(rows: Sequence["PairedLevel"], ks: Sequence[int]) -> Table:
    """By level: from the first run's pass@k to the second one's, and the difference with its interval."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("level")
    for name in ("problems", *(f"pass@{k}" for k in ks)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for k in ks:
            estimate = row.difference[k]
            change = f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.0f} to {100 * estimate.high:+.0f})"
            sure = estimate.low > 0 or estimate.high < 0
            values = f"{100 * row.first[k]:.1f} to {100 * row.second[k]:.1f}\n"
            cells.append(Text.assemble(values, (change, "bold" if sure else "")))
        table.add_row(row.level, f"{row.n_problems:,}", *cells)
    return table


def _list(name: str, changes: Sequence["Change"], show: int, console: Console) -> None:
    """Problems with their counts, the surest first."""
    say(console, f"{name}: {len(changes):,}")
    for change in changes[:show]:
        level = "" if change.level is None else f", level {change.level}"
        line = f"  {change.problem_id}{level}: {change.first}/{change.n} to {change.second}/{change.n}"
        say(console, line)
    if len(changes) > show:
        say(console, f"  and {len(changes) - show:,} more (--show {len(changes)})")


def _unpaired(runs: Sequence["RunRecord"], console: Console) -> None:
    """What can be said without counts by problem: the figures of each run alone."""
    measured = [run for run in runs if run.evaluated]
    ks = sorted({k for run in measured for k in run.evaluated[-1].evaluation.levels[0].pass_at})
    if measured:
        console.print(figures_table(measured, ks[:KS_A_TABLE]))
    say(
        console,
        "No pairing: the runs have no held-out problems in common that were measured on equal terms and counted one by "
        "one. Measure both alike with `expo-lite eval RUN`, and compare again.",
    )


def figures_table(runs: Sequence["RunRecord"], ks: Sequence[int]) -> Table:
    """By level and run: pass@k of the last evaluation in training, with its own interval."""
    table = Table(title="percent, with 95% intervals", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("level", "run"):
        table.add_column(name, overflow="fold")
    for name in ("problems", *(f"pass@{k}" for k in ks)):
        table.add_column(name, justify="right", no_wrap=True)
    levels = dict.fromkeys(result.level for run in runs for result in run.evaluated[-1].evaluation.levels)
    for level in levels:
        for run in runs:
            for row in run.evaluated[-1].evaluation.levels:
                if row.level == level:
                    estimates = [row.pass_at[k] for k in ks if k in row.pass_at]
                    cells = [f"{100 * e.value:.1f} ({100 * e.low:.0f}-{100 * e.high:.0f})" for e in estimates]
                    table.add_row(level, run.label, f"{row.n_problems:,}", *cells)
    return table
