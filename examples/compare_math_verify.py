"""Our grader against math-verify on labelled replies: recall, false acceptances and seconds, by kind.

    uv run examples/compare_math_verify.py                                  # the two blind sets of the test data
    uv run examples/compare_math_verify.py --data FILE.jsonl --failures     # your own; and what we got wrong

A row is {"gold", "reply", "label", "kind"}: the reference answer, a whole reply, whether it is right, and any name.
Rows of `tests/data/grading_cases.jsonl`, with "answer" and "equal", are read too. The authors of the blind sets did not
write rules, and the authors of rules have not read the blind sets. math-verify (a development dependency) is asked as
its documentation shows, without its own time limits, in a process that is killed after ten CPU seconds a row. Seconds
are those of one process, without its start; rows that time out count in full.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from expo_lite.grading import Grader
from expo_lite.grading.process import Reply as Answer
from expo_lite.grading.process import Worker, serve
from expo_lite.records import Verdict

T = TypeVar("T")
DATA = Path(__file__).parent.parent / "tests" / "data"
SERVE = "--serve"
BLIND = (DATA / "grading_blind_e.jsonl", DATA / "grading_blind_f.jsonl")


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
    replies = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        row = json.loads(line)
        reply = row["reply"] if "reply" in row else f"The answer is $\\boxed{{{row['answer']}}}$."
        label = bool(row["label"] if "label" in row else row["equal"])
        replies.append(Reply(number, str(row["gold"]), reply, label, row.get("kind", "all")))
    return replies


def timed(ask: Callable[[Reply], T], rows: Sequence[Reply]) -> tuple[list[T], float]:
    """Ask a grader about each row, and measure the seconds; the first row is asked twice, to start the process."""
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
    """The verdicts of math-verify, and the seconds."""
    worker = Worker(__file__, SERVE, limit_s=10.0)
    try:
        return timed(lambda row: worker.ask({"gold": row.gold, "reply": row.reply}).get("equal", False), rows)
    finally:
        worker.close()


def math_verify(question: Answer) -> Answer:
    """Ask math-verify, in the process that can be killed."""
    from math_verify import parse, verify

    gold, reply = (parse(text, parsing_timeout=None) for text in (f"${question['gold']}$", question["reply"]))
    return {"equal": bool(verify(gold, reply, timeout_seconds=None))}


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
    if SERVE in sys.argv:
        logging.disable(logging.CRITICAL)
        serve(math_verify, memory_mib=4096)
    else:
        main()
