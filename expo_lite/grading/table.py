"""A table of cases by kind with our verdicts and math-verify's: `python -m expo_lite.grading.table CASES.jsonl`.

A case has `kind`, `gold`, `answer` and `equal`; the answer is put into a box. The repository's own are
tests/data/grading_cases.jsonl.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from expo_lite.errors import DataError
from expo_lite.grading.grader import GradeItem, Grader
from expo_lite.grading.pool import grading_pool


@dataclass(frozen=True, slots=True)
class Case:
    """A gold answer, another answer, and whether they are equal."""

    kind: str
    gold: str
    answer: str
    equal: bool

    @property
    def completion(self) -> str:
        """The answer as a model would give it."""
        return f"Therefore the answer is $\\boxed{{{self.answer}}}$."


def read_cases(path: str | Path) -> list[Case]:
    """The cases of a JSONL file; raises DataError with the line of a malformed one."""
    cases = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            cases.append(Case(row["kind"], row["gold"], row["answer"], row["equal"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: expected kind, gold, answer and equal ({error}).") from error
    return cases


def math_verify_verdicts(cases: Sequence[Case]) -> list[bool]:
    """What math-verify says of each case by itself, in a worker that is killed after ten seconds a case."""
    pool = grading_pool(n_workers=2, limit_s=10.0, memory_mib=2048)

    def accepts(case: Case) -> bool:
        reply = pool.ask({"op": "math_verify", "gold": case.gold, "answer": case.completion})
        return bool(reply.get("equal", False))

    try:
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(accepts, cases))
    finally:
        pool.close()


def table(cases: Sequence[Case], ours: Sequence[bool], theirs: Sequence[bool]) -> str:
    """Markdown: of the equal and the different cases of each kind, how many are called equal."""
    lines = [
        "| kind | equal cases | ours | math-verify | near misses | ours | math-verify |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    kinds = list(dict.fromkeys(case.kind for case in cases))
    for kind in [*kinds, None]:
        cells = [kind or "**all**"]
        for equal in (True, False):
            chosen = [i for i, case in enumerate(cases) if case.equal == equal and kind in (None, case.kind)]
            cells += [str(len(chosen)), str(sum(ours[i] for i in chosen)), str(sum(theirs[i] for i in chosen))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the table of the file named on the command line."""
    cases = read_cases(sys.argv[1] if len(sys.argv) > 1 else "tests/data/grading_cases.jsonl")
    with Grader() as grader:
        ours = [verdict.correct for verdict in grader.grade_many([GradeItem(c.gold, c.completion) for c in cases])]
    sys.stdout.write(table(cases, ours, math_verify_verdicts(cases)) + "\n")


if __name__ == "__main__":
    main()
