"""Which samples a report keeps, by hand and by its budget; what is packed comes out as it went in."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from made_run import make_run

from expo_lite.report.thin import FIELDS, pack, pack_samples, rank, rows_of
from expo_lite.results.record import RunRecord, read_runs


def row(step: int, problem: str, *, right: bool = False, kind: str = "rollout", text: str = "c") -> dict[str, Any]:
    about = {"step": step, "kind": kind, "problem_id": problem, "level": 1, "prompt": f"{problem}?", "gold": "2"}
    return about | {"completion": text, "correct": right, "reason": "equal" if right else "different", "how": "text"}


def run_of(rows: list[dict[str, Any]], pairs: list[dict[str, Any]] | None = None) -> RunRecord:
    return RunRecord("r", Path("r"), {}, {}, [], rows, pairs or [], [])


def unpacked(text: str) -> list[dict[str, Any]]:
    """As samples.js does it."""
    data = json.loads(gzip.decompress(base64.b64decode(text)))
    found = []
    for run, step, kind, place, *values in data["rows"]:
        problem_id, level, prompt, gold = data["problems"][place]
        about = {"run": run, "step": step, "kind": kind, "problem_id": problem_id, "level": level, "prompt": prompt}
        found.append(about | {"gold": gold} | dict(zip(data["fields"], values, strict=True)))
    return found


def test_ranks_by_hand() -> None:
    rows = [
        row(1, "twice"),
        row(1, "twice"),  # a second wrong one
        row(1, "twice", right=True),
        row(1, "twice", kind="explanation"),
        row(2, "once"),
        row(3, "twice"),  # between first and last
        row(4, "twice"),
    ]
    assert [ranked.rank[0] for ranked in rank(0, rows)] == [0, 2, 0, 0, 1, 1, 0]


def test_both_times_of_a_problem_are_kept_or_left_out_together() -> None:
    rows = [row(step, f"p{i}") for step in (1, 5) for i in range(50)]
    by_rank = sorted(rank(0, rows), key=lambda ranked: ranked.rank)
    kept = [(ranked.row["problem_id"], ranked.row["step"]) for ranked in by_rank[:40]]
    assert len({problem for problem, _ in kept}) == 20
    assert sorted(kept) == sorted((problem, step) for problem in {problem for problem, _ in kept} for step in (1, 5))


def test_what_is_packed_comes_out_in_order(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a", text="<script>\\u2028 \ud83d\ude00")])
    packed = pack_samples([run, run], 10**7)
    assert (packed.n_kept, packed.n_all) == (2 * len(run.samples), 2 * len(run.samples))
    rows = unpacked(packed.text)
    assert [r["run"] for r in rows] == [0] * len(run.samples) + [1] * len(run.samples)
    assert [r["step"] for r in rows[: len(run.samples)]] == [r["step"] for r in run.samples]
    keys = ("step", "kind", "problem_id", "level", "prompt", "gold", *FIELDS)
    assert sorted(json.dumps([r.get(k) for k in keys]) for r in rows[: len(run.samples)]) == sorted(
        json.dumps([r.get(k) for k in keys]) for r in run.samples
    )


def test_the_budget_holds_and_is_used(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a", steps=40, words=40)])
    whole = pack_samples([run], 10**7)
    for share in (0.9, 0.5, 0.1):
        budget = int(len(whole.text) * share)
        thinned = pack_samples([run], budget)
        assert 0.75 * budget < len(thinned.text) <= budget
        assert thinned.n_kept == len(unpacked(thinned.text)) < thinned.n_all == len(run.samples)
        assert thinned == pack_samples([run], budget)
    assert pack_samples([run], 10).n_kept == 0


def test_pairs_are_samples_of_their_problem() -> None:
    turn = [{"role": "user", "content": "asked"}]
    pair = {"step": 2, "problem_id": "p", "prompt": turn, "chosen": [{"role": "assistant", "content": "yes"}]}
    pair["rejected"] = [{"role": "assistant", "content": "no"}]
    chosen, rejected = rows_of(run_of([row(1, "p")], [pair]))[1:]
    assert (chosen["kind"], chosen["completion"], chosen["prompt"], chosen["gold"]) == ("chosen", "yes", "p?", "2")
    assert (rejected["kind"], rejected["completion"]) == ("rejected", "no")
    assert rows_of(run_of([], [pair]))[0]["prompt"] == "asked"


def test_a_lift_that_is_no_number_is_none() -> None:
    (only,) = unpacked(pack(rank(0, [row(1, "p") | {"lift_nats": float("nan")}])))
    assert only["lift_nats"] is None
