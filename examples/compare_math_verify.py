"""Our grader against math-verify on labelled replies: recall, false acceptances and seconds, by kind.

    uv run examples/compare_math_verify.py                                  # the two blind sets of the test data
    uv run examples/compare_math_verify.py --data FILE.jsonl --failures     # your own; and what we got wrong

A row is {"gold", "reply", "label", "kind"}: the reference answer, a whole reply, whether it is right, and any name.
The blind sets were written by others than who wrote the rules, before anyone who wrote rules had read them.
math-verify is asked as its authors show: parse the gold in dollar signs, parse the reply, verify; with its time limits
off, in a process that is killed after ten seconds a row. Seconds are of one process each, starting not counted; rows
that are killed count with what they took.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from expo_lite.grading import Grader
from expo_lite.grading.pool import grading_pool
from expo_lite.records import Verdict

T = TypeVar("T")
DATA = Path(__file__).parent.parent / "tests" / "data"
BLIND = (DATA / "grading_blind_a.jsonl", DATA / "grading_blind_b.jsonl")


@dataclass(frozen=True, slots=True)
class Reply:
    """A labelled reply; `line` counts from 1."""

    line: int
    gold: str
    reply: str
    label: bool
    kind: str


def read(path: Path) -> list[Reply]:
    """The rows of a JSONL file."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        Reply(number, str(row["gold"]), row["reply"], bool(row["label"]), row.get("kind", "all"))
        for number, row in enumerate(rows, start=1)
    ]


def timed(ask: Callable[[Reply], T], rows: Sequence[Reply]) -> tuple[list[T], float]:
    """What a grader says of each row, and the seconds for all; the first row is asked twice, to start the process."""
    ask(rows[0])
    start_s = time.perf_counter()
    answers = [ask(row) for row in rows]
    return answers, time.perf_counter() - start_s


def ours(rows: Sequence[Reply]) -> tuple[list[Verdict], float]:
    """Our verdicts, one row at a time in one worker."""
    with Grader(n_workers=1) as grader:
        grader.grade(r"\sqrt{8}", r"\boxed{2\sqrt{2}}")
        return timed(lambda row: grader.grade(row.gold, row.reply), rows)


def theirs(rows: Sequence[Reply]) -> tuple[list[bool], float]:
    """What math-verify accepts."""
    pool = grading_pool(n_workers=1, limit_s=10.0, memory_mib=4096)
    try:
        return timed(
            lambda row: bool(
                pool.ask({"op": "math_verify", "gold": row.gold, "answer": row.reply}).get("equal", False)
            ),
            rows,
        )
    finally:
        pool.close()


def duel(rows: Sequence[Reply], mine: Sequence[bool], other: Sequence[bool]) -> str:
    """A table by kind: of the right replies and of the wrong ones, how many each side accepts."""
    lines = [
        "| kind | right | ours | math-verify | wrong | ours | math-verify |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for kind in [*dict.fromkeys(row.kind for row in rows), None]:
        cells = [kind or "**all**"]
        for label in (True, False):
            chosen = [i for i, row in enumerate(rows) if row.label == label and kind in (None, row.kind)]
            cells += [str(len(chosen)), str(sum(mine[i] for i in chosen)), str(sum(other[i] for i in chosen))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share(accepted: Sequence[bool], rows: Sequence[Reply], label: bool) -> str:
    """Accepted of all with a label, as text."""
    chosen = [said for said, row in zip(accepted, rows, strict=True) if row.label == label]
    return f"{sum(chosen)} of {len(chosen)} ({100 * sum(chosen) / max(1, len(chosen)):.1f}%)"


def main() -> None:
    """Print the duel for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=BLIND, help="JSONL files. Default: the two blind sets.")
    parser.add_argument("--failures", action="store_true", help="Print the rows that we got wrong.")
    options = parser.parse_args()
    for path in options.data:
        rows = read(path)
        verdicts, seconds = ours(rows)
        accepted, their_seconds = theirs(rows)
        mine = [verdict.correct for verdict in verdicts]
        sys.stdout.write(f"\n{path.name}\n\n{duel(rows, mine, accepted)}\n\n")
        for name, said, took in (("ours", mine, seconds), ("math-verify", accepted, their_seconds)):
            sys.stdout.write(f"{name}: recall {share(said, rows, True)}, ")
            sys.stdout.write(f"false acceptances {share(said, rows, False)}, {took:.1f} s\n")
        for row, verdict in zip(rows, verdicts, strict=True):
            if options.failures and verdict.correct != row.label:
                kind = "missed" if row.label else "wrongly accepted"
                sys.stdout.write(f"line {row.line}, {row.kind}, {kind} by {verdict.how}: ")
                sys.stdout.write(f"gold {row.gold!r}, read {verdict.answer!r}, reply ...{row.reply[-200:]!r}\n")


if __name__ == "__main__":
    main()
