"""What `models`, `tasks` and `grade` print."""

from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from expo_lite.grading import Grader, GradeReport, grade_file
from expo_lite.settings.models import PRESETS, TINY
from expo_lite.tasks import ORIGINS, TASKS


def print_models() -> None:
    """The model aliases."""
    table = _table("alias", "model", "parameters", "license", "steps", "learning rate", "max tokens")
    for alias, preset in PRESETS.items():
        source = "built in" if preset is TINY else preset.source
        defaults = (str(preset.steps), f"{preset.learning_rate:g}", str(preset.max_completion_tokens))
        table.add_row(alias, source, preset.parameters, preset.license, *defaults)
    console = Console()
    console.print(table)
    _say(console, "--model also takes OWNER/NAME of the model hub, a local folder or a GGUF file.")


def print_tasks() -> None:
    """The tasks."""
    table = _table("task", "problems")
    for name, about in TASKS.items():
        table.add_row(name, about)
    origins = _table("task", "license", "source", "expert chains", "held-out split")
    for name, origin in ORIGINS.items():
        origins.add_row(name, *origin)
    console = Console()
    console.print(table)
    console.print(origins)


def grade_and_print(source: Path, target: Path) -> None:
    """Grade a file, print the counts by reason and, where the rows have labels, how far the grader agrees with them.

    Raises:
        DataError: the file is missing or malformed.
    """
    console = Console()
    with Grader() as grader:
        report = grade_file(source, target, grader)
    table = _table("reason", "rows")
    for reason, count in report.reasons.items():
        table.add_row(reason, f"{count:,}")
    console.print(table)
    _say(console, f"{report.n_correct:,} of {report.n_rows:,} correct")
    if report.n_labelled:
        for line in _agreement(report):
            _say(console, line)
    _say(console, f"written to: {target}")


def _agreement(report: GradeReport) -> Iterable[str]:
    yield f"against {report.n_labelled:,} labels: recall {_percent(report.recall)}, precision {_percent(report.precision)}"
    for row in report.disagreements:
        ours, theirs = ("correct", "wrong") if row.verdict.correct else ("wrong", "correct")
        yield f"line {row.line}: gold {row.gold!r}, answer {row.answer!r}: {ours} ({row.verdict.reason}, {row.verdict.how}), label {theirs}"


def _percent(share: float | None) -> str:
    return "none to measure" if share is None else f"{share:.1%}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
