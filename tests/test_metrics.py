"""Metric names and values by hand; files that are appended to, cut off and full."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from full_disk import largest_file

from expo_lite.errors import CheckpointError
from expo_lite.records import Completion, Explanation, FinishReason, Group, Problem, Verdict
from expo_lite.run.folder import JsonLines
from expo_lite.run.metrics import explanation_metrics, group_metrics, sample_rows

PROBLEM = Problem("p", "1 + 1?", "2", 3, "sums")


def completion(n: int, logprob: float = -1.0, finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion((1, 2), (5,) * n, (logprob,) * n, f"text {n}", finish)


def group(rewards: list[int], lengths: list[int], finish: FinishReason = FinishReason.STOP) -> Group:
    verdicts = tuple(Verdict(bool(r), "equal" if r else "different", "number", str(r)) for r in rewards)
    return Group(PROBLEM, tuple(completion(n, finish=finish) for n in lengths), verdicts)


def explanation(*, accepted: bool, reason: str = "accepted") -> Explanation:
    return Explanation(PROBLEM, completion(3), (1,), (2,), Verdict(True, "equal", "text", "2"), accepted, reason, 0.5)


def test_groups_by_hand() -> None:
    metrics = group_metrics(
        [
            group([1, 0], [2, 4]),
            group([0, 0], [3, 3]),
            group([1, 1], [1, 7], FinishReason.LENGTH),
            group([0, 0], [5, 7]),
        ]
    )
    assert metrics["reward"] == 3 / 8
    # the one mixed group deviates by sqrt(1/2), over 4 groups
    assert metrics["reward_std"] == pytest.approx(0.5**0.5 / 4)
    assert (metrics["frac_all_wrong"], metrics["frac_mixed"], metrics["frac_all_correct"]) == (0.5, 0.25, 0.25)
    assert metrics["frac_reward_zero_std"] == 0.75
    assert (metrics["completions/mean_length"], metrics["completions/max_length"]) == (4.0, 7.0)
    assert metrics["completions/clipped_ratio"] == 0.25
    assert (metrics["verdicts/equal"], metrics["verdicts/different"]) == (0.375, 0.625)


def test_the_reward_of_each_level_by_hand() -> None:
    easy = replace(group([1, 1], [1, 1]), problem=replace(PROBLEM, level=1))
    without = replace(group([1, 1], [1, 1]), problem=replace(PROBLEM, level=None))
    metrics = group_metrics([group([1, 0], [2, 4]), group([0, 0], [3, 3]), easy, without])
    assert {name: value for name, value in metrics.items() if name.startswith("reward/level/")} == {
        "reward/level/1": 1.0,
        "reward/level/3": 1 / 4,
    }


def test_explanations_by_hand() -> None:
    refused = [explanation(accepted=False, reason=reason) for reason in ("no_lift", "truncated", "no_lift")]
    assert explanation_metrics([explanation(accepted=True), *refused]) == {
        "expo/explanation_accept_rate": 0.25,
        "expo/explanation_checked_rate": 0.0,
        "expo/refused/no_lift": 0.5,
        "expo/refused/truncated": 0.25,
    }


def test_samples_keep_prompt_completion_verdict_and_reason() -> None:
    rollout, other, own = sample_rows([group([1, 0], [2, 4])], [explanation(accepted=False, reason="no_lift")], step=7)
    assert rollout == {
        "step": 7,
        "kind": "rollout",
        "problem_id": "p",
        "level": 3,
        "prompt": "1 + 1?",
        "completion": "text 2",
        "n_tokens": 2,
        "finish_reason": "stop",
        "gold": "2",
        "correct": True,
        "reason": "equal",
        "how": "number",
        "answer": "1",
        "reward": 1.0,
    }
    assert (other["correct"], other["reward"]) == (False, 0.0)
    partly = Group(PROBLEM, (completion(2),), (Verdict(False, "judge", "", partial=0.25),))
    assert sample_rows([partly], [], step=1)[0]["reward"] == 0.25
    assert (own["kind"], own["accepted"], own["refusal"], own["lift_nats"]) == ("explanation", False, "no_lift", 0.5)
    assert sample_rows([], [explanation(accepted=True)], step=1)[0]["refusal"] is None


NASTY = ["line\nbreak", "\u2028 \u2029 \x85 \x0b \x1c", "\x00", "\ud800 lone", "😀 ä", '"quoted" \\boxed{1}', ""]


def test_any_text_comes_back(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "samples.jsonl")
    assert file.read() == []
    file.append({"i": i, "text": text} for i, text in enumerate(NASTY[:3]))
    file.append({"i": i, "text": text} for i, text in enumerate(NASTY[3:], 3))
    file.append([])
    rows = file.read()
    assert [row["i"] for row in rows] == list(range(len(NASTY)))
    assert [row["text"] for row in rows] == NASTY
    assert file.path.read_bytes().count(b"\n") == len(NASTY)  # one line a row, for those who read it with other tools


def test_a_cut_at_any_byte_costs_the_last_row_alone(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "samples.jsonl")
    file.append([{"text": "ä"}])
    start = file.path.stat().st_size
    file.append([{"text": "ö 😀"}])
    data = file.path.read_bytes()
    for end in range(start, len(data)):
        file.path.write_bytes(data[:end])
        assert file.read() == [{"text": "ä"}]
    file.path.write_bytes(data)
    assert len(file.read()) == 2


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"\0\0\0", b"7", b""])
def test_a_damaged_line_before_others_is_named(line: bytes, tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl', line 2 is damaged"):
        file.read()


def test_a_full_disk_is_an_error_and_earlier_rows_stay(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.append([{"step": 1}])
    with largest_file(40), pytest.raises(CheckpointError, match=r"Cannot write .*File too large"):
        file.append([{"step": 2, "text": "x" * 100}])
    assert file.read() == [{"step": 1}]
    if Path("/dev/full").exists():
        os.symlink("/dev/full", tmp_path / "full.jsonl")
        with pytest.raises(CheckpointError, match="No space left on device"):
            JsonLines(tmp_path / "full.jsonl").append([{"step": 1}])
