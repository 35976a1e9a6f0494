"""`expo-lite diagnose`: measure both properties of a good positive before a night of training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from expo_lite.commands import command
from expo_lite.grading import Grader
from expo_lite.measure.verdict import LevelDiagnosis, closing_line
from expo_lite.records import ALL, Explanation, Level
from expo_lite.results.tables import interval_cell
from expo_lite.run.folder import check_new
from expo_lite.settings.measuring import DiagnoseConfig, check_measuring
from expo_lite.settings.train import task_label
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal, counted, new_table, say


@dataclass(frozen=True, kw_only=True)
class Diagnose(command.ConfiguredCommand):
    """Measure whether explanations are good positives for a model on a task: probable, and of use for the answer.

    Example: expo-lite diagnose --model qwen2.5-3b --task jsonl:problems.jsonl --show 4
    """

    settings: Annotated[DiagnoseConfig, command.Inline]

    def run(self) -> None:
        """Sample groups and an explanation of each problem, measure them and expert chains, show the figures.

        Raises:
            ExpoLiteError: whatever can be foreseen to go wrong.
        """
        config = self.settings
        check_measuring(config)
        console = Terminal()
        target = command.target_of(config, config.model)
        prompts = command.prompts_of(config, target)
        folder = config.output or Path("runs") / f"diagnose-{target.label}-{task_label(config.task)}"
        check_new(folder)
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
            problems = command.measured_problems(task, config, config.split, prompts, console)
            command.import_torch(console)
            from expo_lite.measure.diagnose import diagnose_target

            say(console, f"{target.label}: diagnosing {counted(len(problems), 'problem')} ...")
            command.say_device(console, target)
            result = diagnose_target(target, task, problems, config, folder, console)
        n_shown = Counter[Level | None]()
        for explanation in result.explanations:
            n_shown[explanation.problem.level] += 1
            if n_shown[explanation.problem.level] <= config.show:
                show(explanation, console)
        console.print(*tables(result.levels, name=f"{target.label} on {config.task}", group_size=config.group_size))
        for line in (*result.in_words(), closing_line(result.verdicts)):
            say(console, line)
        say(console, f"written to: {folder}")


def show(explanation: Explanation, console: Console) -> None:
    """Print one explanation with its question, the reference answer and the verdict."""
    problem = explanation.problem
    console.print(Rule(problem.problem_id, align="left"))
    outcome = "accepted" if explanation.accepted else f"refused: {explanation.reason}"
    lift = "" if explanation.lift_nats is None else f", lift {explanation.lift_nats:+.2f} nats"
    for heading, text in (
        ("question", problem.question),
        ("reference answer", problem.answer),
        ("explanation", explanation.completion.text.strip()),
        ("verdict", f"{outcome} (answer {explanation.verdict.answer or 'none'}{lift})"),
    ):
        console.print(heading, style="bold")
        say(console, f"{text}\n")


COLUMNS = {"no answer": "own", "true answer": "explanation", "wrong answer": "wrong-answer", "expert": "expert"}
"""The answer that the prompt showed, or `expert` for the author, and the kind of chain in the figures."""


def tables(levels: Sequence[LevelDiagnosis], *, name: str, group_size: int) -> list[Table]:
    """Return a table of rates by level, then a table of chains for each level."""
    title = f"{name}: percent, with 95% intervals"
    heads = ("level", "problems", "right", f"all {group_size} wrong", "truncated", "explanations accepted")
    rates = new_table(*heads, title=title)
    for row in levels:
        shares = (row.reward, row.all_wrong, row.truncated, row.accepted)
        rates.add_row(row.level, f"{row.n_problems:,}", *map(interval_cell, shares))
    single = [row for row in levels if row.level != ALL] or levels
    return [rates, *map(chain_table, single)]


def chain_table(row: LevelDiagnosis) -> Table:
    """Chains of one level under the plain prompt, by what was shown when they were written."""
    title = f"level {row.level}" if row.level != ALL else "all levels"
    chains = new_table("", *COLUMNS, title=f"{title}: chains by what was shown")
    for what, figures, scale, digits in (
        ("right, %", row.right, 100, 0),
        ("right steps, %", row.valid, 100, 0),
        ("NLL, nats a token", row.nll, 1, 2),
        ("answer lift, nats", row.lift, 1, 2),
        ("reliance, nats a token", row.reliance, 1, 2),
        *((f"  of quarter {quarter}", figures, 1, 2) for quarter, figures in row.anchoring.items()),
    ):
        cells = (interval_cell(figures.get(kind), scale=scale, digits=digits) for kind in COLUMNS.values())
        chains.add_row(what, *cells)
    return chains
