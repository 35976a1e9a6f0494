"""`expo-lite grade`: grade the replies of a file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import GradeItem, Grader
from expo_lite.records import Verdict
from expo_lite.run.folder import JsonLines
from expo_lite.tasks.files import DataRow, read_rows
from expo_lite.terminal import Terminal, new_table, say


@dataclass(frozen=True, slots=True)
class Graded:
    """A row with its verdict."""

    row: DataRow
    verdict: Verdict

    @property
    def label(self) -> Any:
        """True, False, or None where the row has none."""
        return self.row.fields.get("label")


@dataclass(frozen=True, kw_only=True)
class Grade(Command):
    """Grade the replies of a JSONL file with fields gold and reply; with a label too, measure the grader itself.

    Example: expo-lite grade replies.jsonl --output graded.jsonl
    """

    file: Path
    """A JSONL file: each line has gold, reply, and optionally label (true if the reply is right)."""
    output: Path | None = None
    """The JSONL file to write, with correct, reason and how added. Default: FILE.graded.jsonl."""

    rounding: Literal["never", "gold"] = "never"
    """Accept rounded answers never, or if the gold answer is a rounded decimal of three digits or more (gold)."""

    def run(self) -> None:
        """Print the counts by reason and, if the rows have labels, the agreement with them.

        Raises:
            ConfigError: no file is named.
            DataError: the file is missing or malformed.
        """
        if not self.file.name:
            raise ConfigError(f"'{self.file}' names no file. Give a JSONL file with 'gold' and 'reply'.")
        console, output = Terminal(), self.output or self.file.with_suffix(".graded.jsonl")
        with Grader(rounding=self.rounding) as grader:
            graded = grade_file(self.file, output, grader)
        table = new_table("reason", "rows")
        for reason, count in Counter(each.verdict.reason for each in graded).most_common():
            table.add_row(reason, f"{count:,}")
        console.print(table)
        pairs = Counter((each.label, each.verdict.correct) for each in graded)
        say(console, f"{sum(each.verdict.correct for each in graded):,} of {len(graded):,} correct")
        if n_labelled := len(graded) - pairs[None, True] - pairs[None, False]:
            recall = _share(pairs[True, True], pairs[True, False])
            precision = _share(pairs[True, True], pairs[False, True])
            say(console, f"against {n_labelled:,} labels: recall {recall}, precision {precision}")
        for each in graded:
            if each.label not in (None, each.verdict.correct):
                ours, theirs = ("correct", "wrong") if each.verdict.correct else ("wrong", "correct")
                why = f"{ours} ({each.verdict.reason}, {each.verdict.how}), label {theirs}"
                gold = str(each.row.fields["gold"])
                say(console, f"{each.row.where}: gold {gold!r}, answer {each.verdict.answer!r}: {why}")
        say(console, f"written to: {output}")


def _share(n: int, n_others: int) -> str:
    return f"{n / (n + n_others):.1%}" if n + n_others else "nothing to measure"


def grade_file(source: Path, target: Path, grader: Grader) -> Sequence[Graded]:
    """Grade the rows of a JSONL file and write them with `correct`, `reason` and `how` added, in order.

    A row has `gold` and `reply` (text; gold may be a number), may have `truncated` and `label`, and keeps its other
    fields.

    Raises:
        DataError: a row is malformed, with file and line, or there is no place for the output.
        CheckpointError: the output cannot be written.
    """
    if target.is_dir() or not target.parent.is_dir():
        what = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise DataError(f"Cannot write {target}: {what}. Name a file with --output.")
    rows = [_checked(row) for row in read_rows(source, kind="jsonl")]
    items = [
        GradeItem(str(r.fields["gold"]), str(r.fields["reply"]), bool(r.fields.get("truncated", False))) for r in rows
    ]
    graded = [Graded(*each) for each in zip(rows, grader.grade_many(items), strict=True)]
    JsonLines(target).replace(
        {**g.row.fields, "correct": g.verdict.correct, "reason": g.verdict.reason, "how": g.verdict.how} for g in graded
    )
    return graded


def _checked(row: DataRow | DataError) -> DataRow:
    if isinstance(row, DataError):
        raise row
    for field in ("gold", "reply"):
        value = row.fields.get(field)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not (field == "gold" and is_number):
            what = "missing" if field not in row.fields else f"a {type(value).__name__}"
            raise DataError(f"{row.where}: field '{field}' is {what}; expected text.")
    if row.fields.get("label") not in (None, True, False):
        raise DataError(f"{row.where}: field 'label' is {row.fields['label']!r}; expected true or false.")
    return row
