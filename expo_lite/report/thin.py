"""The samples that a report keeps, packed: problems once, rows as lists, compressed."""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expo_lite.results.record import HELD_OUT, RunRecord
from expo_lite.results.statistics import finite

FIELDS = ("completion", "n_tokens", "finish_reason", "correct", "reason", "how", "answer", "accepted", "refusal",
          "lift_nats")  # fmt: skip
"""The fields of a row that are kept, after its run, step, kind and problem."""
FIRST, ROUNDS = 2_000, 8
"""The number of samples to pack at first, and the number of tries with more or fewer."""
LEVEL = 6
"""The level of gzip; the highest is three times slower and saves 2%."""
NEAR, FULL = 0.98, 0.95
"""The part of the budget that is aimed at, and the part that is enough."""
RULE = (
    "Kept first, of problems seen more than once: their first and last time, one right and one wrong completion of "
    "each kind and every explanation; then the same of all other times; then the remaining completions. If not "
    "all fit, a fixed random subset is kept."
)


@dataclass(frozen=True, slots=True)
class PackedSamples:
    """Samples as text for the page: base64 of gzip of JSON."""

    text: str
    n_kept: int
    n_all: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """A row of a run with its rank (lower ones are kept first) and its place in the list that is shown."""

    row: dict[str, Any]
    rank: tuple[int, str]
    place: tuple[int, bool, int, int, int]
    """The order: by run, held-out samples last, then by step and problem."""


def pack_samples(runs: Sequence[RunRecord], budget: int) -> PackedSamples:
    """Pack as many samples as fit into `budget` characters, chosen by `RULE`."""
    ranked = [each for number, run in enumerate(runs) for each in rank(number, rows_of(run))]
    ranked.sort(key=lambda each: each.rank)
    n, kept, text = min(len(ranked), FIRST), 0, pack([])
    for _ in range(ROUNDS):
        tried = pack(ranked[:n])
        if len(tried) <= budget and n >= kept:
            kept, text = n, tried
            if n == len(ranked) or len(tried) > FULL * budget:
                break
        # what is packed grows with what is kept, though not quite in proportion
        n = min(int(n * NEAR * budget / len(tried)), len(ranked))
    return PackedSamples(text, kept, len(ranked))


def rows_of(run: RunRecord) -> list[dict[str, Any]]:
    """The rows of samples.jsonl and of kept evaluations, then those of pairs.jsonl in the same form: one row a side."""
    rows = [*run.samples, *run.held_out]
    known = {row["problem_id"]: row for row in run.samples}
    for pair in run.pairs:
        about = known.get(pair["problem_id"], {})
        for side in ("chosen", "rejected"):
            asked = about.get("prompt", pair["prompt"][-1]["content"])
            rows.append(
                {key: pair[key] for key in ("step", "problem_id")}
                | {"kind": side, "level": about.get("level"), "gold": about.get("gold"), "prompt": asked}
                | {"completion": pair[side][-1]["content"]}
            )
    return rows


def rank(run: int, rows: Sequence[dict[str, Any]]) -> list[Ranked]:
    """Rank each row by `RULE`."""
    steps: dict[str, list[int]] = {}
    for row in rows:
        steps.setdefault(row["problem_id"], []).append(row["step"])
    ends = {problem: (min(drawn), max(drawn)) for problem, drawn in steps.items()}
    seen: set[tuple[Any, ...]] = set()
    problems: dict[str, int] = {}
    found = []
    for number, row in enumerate(rows):
        first, last = ends[row["problem_id"]]
        verdict = (row["step"], row["problem_id"], row["kind"], row.get("correct"))
        spare = verdict in seen and row["kind"] != "explanation"
        seen.add(verdict)
        is_end = first < last and row["step"] in (first, last)
        order = 2 if spare else 0 if is_end else 1
        lot = row["problem_id"] if is_end else f"{row['problem_id']}/{row['step']}"
        shown_at = problems.setdefault(row["problem_id"], number)
        place = (run, row["kind"].startswith(HELD_OUT), row["step"], shown_at, number)
        found.append(Ranked(row, (order, hashlib.sha256(lot.encode()).hexdigest()), place))
    return found


def pack(ranked: Sequence[Ranked]) -> str:
    """Pack samples in the order of their places; the same samples always give the same text."""
    problems: dict[tuple[Any, ...], int] = {}
    rows = []
    for one in sorted(ranked, key=lambda one: one.place):
        row = one.row
        problem = (row["problem_id"], row["level"], row["prompt"], row["gold"])
        place = problems.setdefault(problem, len(problems))
        rows.append([one.place[0], row["step"], row["kind"], place, *(finite(row.get(name)) for name in FIELDS)])
    data = json.dumps({"fields": FIELDS, "problems": list(problems), "rows": rows}, ensure_ascii=False)
    return base64.b64encode(gzip.compress(data.encode("utf-8", "backslashreplace"), LEVEL, mtime=0)).decode("ascii")
