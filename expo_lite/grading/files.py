"""Grading a JSONL file of gold answers and replies."""

import contextlib
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from expo_lite.errors import DataError
from expo_lite.grading.grader import GradeItem, Grader
from expo_lite.records import Verdict
from expo_lite.settings.schema import not_a_file

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Graded:
    """A row with its verdict; `line` counts from 1, and `label` is None where the row has none."""

    line: int
    gold: str
    answer: str | None
    label: bool | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class GradeReport:
    """The counts of a graded file; recall and precision are None if there is nothing to divide by."""

    n_rows: int
    n_correct: int
    n_labelled: int
    reasons: dict[str, int]
    recall: float | None
    precision: float | None
    disagreements: tuple[Graded, ...]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each row that is not blank."""
    try:
        if what := not_a_file(path):
            raise DataError(f"Cannot read {path}: it is {what}. Give a JSONL file with 'gold' and 'reply'.")
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    yield line, _row(path, line, raw)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Give a JSONL file with 'gold' and 'reply'.") from error


def _row(path: Path, line: int, raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: not valid JSON ({error}). Each line is one object.") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {line}: expected an object with 'gold' and 'reply', got {type(row).__name__}.")
    for field in ("gold", "reply"):
        value = row.get(field)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not (field == "gold" and is_number):
            what = "missing" if field not in row else f"a {type(value).__name__}"
            raise DataError(f"{path}, line {line}: field '{field}' is {what}; expected text.")
    if not isinstance(row.get("label", False), bool) and row["label"] not in (0, 1):
        raise DataError(f"{path}, line {line}: field 'label' is {row['label']!r}; expected true or false.")
    return row


def grade_file(input_path: str | Path, output_path: str | Path, grader: Grader) -> GradeReport:
    """Grade the rows of a JSONL file and write them with `correct`, `reason` and `how` added, in order.

    A row has `gold` and `reply` (text; gold may be a number), may have `truncated` and `label`, and keeps its other
    fields. The output appears only when it is complete. Raises DataError with file and line for a malformed row.
    """
    source, target = Path(input_path), Path(output_path)
    if target.is_dir():
        raise DataError(f"Cannot write {target}: it is a folder. Name a file with --output.")
    try:
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise DataError(f"Cannot write {target}: {error.strerror}.") from error
    graded: list[Graded] = []
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            rows = _rows(source)
            while batch := list(itertools.islice(rows, _BATCH)):
                graded += _grade(batch, grader, out)
        if not graded:
            raise DataError(f"{source} has no rows. Give a JSONL file with 'gold' and 'reply'.")
        os.chmod(draft, 0o644)
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    return _report(graded)


def _grade(batch: list[tuple[int, dict[str, Any]]], grader: Grader, out: TextIO) -> Iterator[Graded]:
    """Grade some rows and write them."""
    items = [GradeItem(str(row["gold"]), row["reply"], bool(row.get("truncated", False))) for _, row in batch]
    for (line, row), verdict in zip(batch, grader.grade_many(items), strict=True):
        fields = {"correct": verdict.correct, "reason": verdict.reason, "how": verdict.how}
        out.write(json.dumps({**row, **fields}) + "\n")
        label = None if row.get("label") is None else bool(row["label"])
        yield Graded(line, str(row["gold"]), verdict.answer, label, verdict)


def _report(graded: Sequence[Graded]) -> GradeReport:
    pairs = Counter((row.label, row.verdict.correct) for row in graded)
    right, missed, wrongly = pairs[True, True], pairs[True, False], pairs[False, True]
    return GradeReport(
        n_rows=len(graded),
        n_correct=sum(row.verdict.correct for row in graded),
        n_labelled=sum(row.label is not None for row in graded),
        reasons=dict(Counter(row.verdict.reason for row in graded).most_common()),
        recall=right / (right + missed) if right + missed else None,
        precision=right / (right + wrongly) if right + wrongly else None,
        disagreements=tuple(row for row in graded if row.label not in (None, row.verdict.correct)),
    )
