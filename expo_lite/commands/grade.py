"""`expo-lite grade`: grade the replies of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError
from expo_lite.grading import Grader, grade_file
from expo_lite.terminal import Terminal, new_table, say


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
            report = grade_file(self.file, output, grader)
        table = new_table("reason", "rows")
        for reason, count in report.reasons.items():
            table.add_row(reason, f"{count:,}")
        console.print(table)
        say(console, f"{report.n_correct:,} of {report.n_rows:,} correct")
        if report.n_labelled:
            shares = (report.recall, report.precision)
            recall, precision = ("none to measure" if share is None else f"{share:.1%}" for share in shares)
            say(console, f"against {report.n_labelled:,} labels: recall {recall}, precision {precision}")
        for row in report.disagreements:
            ours, theirs = ("correct", "wrong") if row.verdict.correct else ("wrong", "correct")
            why = f"{row.verdict.reason}, {row.verdict.how}"
            say(console, f"line {row.line}: gold {row.gold!r}, answer {row.answer!r}: {ours} ({why}), label {theirs}")
        say(console, f"written to: {output}")
