"""Grading a JSONL file of gold answers and replies."""

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_lite.errors import DataError
from expo_lite.grading.grader import GradeItem, Grader
from expo_lite.records import Verdict
from expo_lite.settings.schema import not_a_file

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row whose label and verdict differ; `line` counts from 1."""

    line: int
    gold: str
    answer: str | None
    label: bool
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class GradeReport:
    """What a graded file came to; recall and precision are None where the rows have no labels, or none to divide by."""

    n_rows: int
    n_correct: int
    n_labelled: int
    reasons: dict[str, int]
    recall: float | None
    precision: float | None
    disagreements: tuple[Disagreement, ...]


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
    tally = _Tally()
    if target.is_dir():
        raise DataError(f"Cannot write {target}: it is a folder. Name a file with --output.")
    try:
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise DataError(f"Cannot write {target}: {error.strerror}.") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            batch: list[tuple[int, dict[str, Any]]] = []
            for entry in _rows(source):
                batch.append(entry)
                if len(batch) == _BATCH:
                    out.writelines(tally.add(batch, grader))
                    batch = []
            out.writelines(tally.add(batch, grader))
        if tally.n_rows == 0:
            raise DataError(f"{source} has no rows. Give a JSONL file with 'gold' and 'reply'.")
        os.chmod(draft, 0o644)
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    return tally.report()


class _Tally:
    """Counts over the rows graded so far."""

    def __init__(self) -> None:
        self.n_rows = 0
        self._reasons: Counter[str] = Counter()
        self._pairs: Counter[tuple[bool, bool]] = Counter()
        self._n_correct = 0
        self._disagreements: list[Disagreement] = []

    def add(self, batch: list[tuple[int, dict[str, Any]]], grader: Grader) -> list[str]:
        """Grade a batch; the lines to write."""
        items = [GradeItem(str(row["gold"]), row["reply"], bool(row.get("truncated", False))) for _, row in batch]
        lines = []
        for (line, row), verdict in zip(batch, grader.grade_many(items), strict=True):
            self._count(line, row, verdict)
            graded = {**row, "correct": verdict.correct, "reason": verdict.reason, "how": verdict.how}
            lines.append(json.dumps(graded) + "\n")
        return lines

    def _count(self, line: int, row: dict[str, Any], verdict: Verdict) -> None:
        self.n_rows += 1
        self._n_correct += verdict.correct
        self._reasons[verdict.reason] += 1
        if row.get("label") is None:
            return
        label = bool(row["label"])
        self._pairs[label, verdict.correct] += 1
        if label != verdict.correct:
            self._disagreements.append(Disagreement(line, str(row["gold"]), verdict.answer, label, verdict))

    def report(self) -> GradeReport:
        """The counts as a report."""
        right, missed, wrongly = self._pairs[True, True], self._pairs[True, False], self._pairs[False, True]
        return GradeReport(
            n_rows=self.n_rows,
            n_correct=self._n_correct,
            n_labelled=sum(self._pairs.values()),
            reasons=dict(self._reasons.most_common()),
            recall=right / (right + missed) if right + missed else None,
            precision=right / (right + wrongly) if right + wrongly else None,
            disagreements=tuple(self._disagreements),
        )
