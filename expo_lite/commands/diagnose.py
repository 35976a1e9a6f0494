"""`expo-lite diagnose`: the two properties of a good positive, measured before a night is spent on training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expo_lite.commands.command import ConfiguredCommand, Inline, say, target_of
from expo_lite.grading import Grader
from expo_lite.measure.tables import interval_cell
from expo_lite.run.folder import check_new
from expo_lite.settings.measuring import DiagnoseConfig, check_measuring
from expo_lite.tasks import load_task

if TYPE_CHECKING:
    from expo_lite.measure.diagnose import LevelDiagnosis


@dataclass(frozen=True, kw_only=True)
class Diagnose(ConfiguredCommand):
    """Measure whether explanations are good positives for a model on a task: probable, and of use for the answer."""

    settings: Annotated[DiagnoseConfig, Inline]

    def run(self) -> None:
        """Check, then measure."""
        run_diagnose(self.settings)


def run_diagnose(config: DiagnoseConfig) -> None:
    """Sample groups and an explanation of each problem, measure them and expert chains, show the figures.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong.
    """
    check_measuring(config)
    console = Console()
    target = target_of(config, config.model)
    folder = config.output or Path("runs") / f"diagnose-{target.label}-{config.task.partition(':')[0]}"
    check_new(folder)
    with Grader() as grader:
        task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
        problems = task.problems(config.split, levels=config.levels, limit=config.problems, seed=0)
        from expo_lite.commands.sampling import say_device
        from expo_lite.measure.diagnose import diagnose_target

        say(console, f"{target.label}: diagnosing {len(problems)} problems ...")
        say_device(console)
        result = diagnose_target(target, task, problems, config, folder, lambda line: say(console, f"warning: {line}"))
    console.print(*tables(result.levels, name=f"{target.label} on {config.task}", group_size=config.group_size))
    for line in verdict(result.levels[-1]):
        say(console, line)
    say(console, f"written to: {folder}")


def tables(levels: "Sequence[LevelDiagnosis]", *, name: str, group_size: int) -> list[Table]:
    """Chains by kind, then rates."""
    from expo_lite.measure.diagnose import KINDS

    title = f"{name}: chains under the plain prompt, with 95% intervals over problems"
    chains = Table(title=escape(title), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    rates = Table(title="percent, with 95% intervals", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    chains.add_column("level")
    rates.add_column("level")
    for column in (*(f"NLL a token, {kind}" for kind in KINDS), "expert / expl.", *(f"lift, {kind}" for kind in KINDS)):
        chains.add_column(column, justify="right")
    for column in ("problems", "right", f"all {group_size} wrong", "truncated", "explanations accepted", "leaking"):
        rates.add_column(column, justify="right")
    for row in levels:
        figures = (*(row.nll[kind] for kind in KINDS), row.nll_ratio, *(row.lift[kind] for kind in KINDS))
        chains.add_row(row.level, *(interval_cell(figure, scale=1, digits=2) for figure in figures))
        shares = (row.reward, row.all_wrong, row.truncated, row.accepted, row.leaking)
        rates.add_row(row.level, f"{row.n_problems:,}", *map(interval_cell, shares))
    return [chains, rates]


def verdict(row: "LevelDiagnosis") -> list[str]:
    """What the figures say about the two properties, in words; of the last row, all levels together."""
    explained, expert, own = row.nll["explanation"], row.nll["expert"], row.nll["own"]
    lift, own_lift = row.lift["explanation"], row.lift["own"]
    if explained is None or lift is None or own is None or own_lift is None:
        return ["No explanation was accepted: there is nothing to learn from here."]
    compared = f"{explained.value:.2f} nats a token, own chains {own.value:.2f}"
    compared += f", expert chains {expert.value:.2f}" if expert else "; there are no expert chains"
    helps = "more" if lift.value > own_lift.value else "no more"
    return [
        f"in distribution: explanations {compared}",
        f"positive signal: explanations raise the answer's log-probability by {lift.value:.2f} nats, {helps} than own "
        f"chains ({own_lift.value:.2f})",
    ]
