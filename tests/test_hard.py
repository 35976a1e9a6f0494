"""The hard subset: what is written is what --task jsonl reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_policy import GRADER, ScriptedPolicy, install, write_problems

from expo_lite.commands.hard import Hard
from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.settings.measuring import HardConfig
from expo_lite.tasks import load_task

FIELDS = ["problem_id", "question", "answer", "level", "subject", "expert_chain", "solve_rate", "n_samples"]


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedPolicy]:
    return install(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    task = f"jsonl:{write_problems(tmp_path / 'sums.jsonl', 90)}"
    return {"task": task, "zero_of": 8, "sampling_rows": 64, "output": tmp_path / "hard"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_hard_problems_are_a_task(
    policy: type[ScriptedPolicy], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Hard(settings=HardConfig(model="tiny", **config)).run()
    hard, rates = rows_of(config["output"] / "hard.jsonl"), rows_of(config["output"] / "solve_rates.jsonl")
    assert list(hard[0]) == FIELDS
    original = {p.problem_id: p for p in load_task(config["task"], grader=GRADER).problems("train")}
    subset = load_task(f"jsonl:{config['output'] / 'hard.jsonl'}", grader=GRADER)
    read = [*subset.problems("train"), *subset.problems("test")]
    # every sum above 90, for the scripted policy never gets these, and hardly another
    assert {p.problem_id for p in original.values() if int(p.answer) > 90} <= {row["problem_id"] for row in hard}
    assert {p.problem_id: p for p in read} == {row["problem_id"]: original[row["problem_id"]] for row in hard}
    assert [row["problem_id"] for row in rates] == list(original)
    assert {row["problem_id"] for row in rates if row["solve_rate"] == 0} == {row["problem_id"] for row in hard}
    assert all(row["n_samples"] == 8 and row["solve_rate"] == row["n_correct"] / 8 for row in rates)
    assert f"--task jsonl:{config['output'] / 'hard.jsonl'}" in capsys.readouterr().out.replace("\n", "")


def test_resumed_equals_unbroken(policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path) -> None:
    Hard(settings=HardConfig(model="tiny", **config)).run()
    broken = tmp_path / "broken"
    policy.n_calls, policy.die_at = 0, 3
    with pytest.raises(KeyboardInterrupt):
        Hard(settings=HardConfig(model="tiny", **config | {"output": broken})).run()
    assert not (broken / "hard.jsonl").exists()  # final files only when all is sampled
    policy.die_at = None
    Hard(settings=HardConfig(model="tiny", **config | {"output": broken}, resume=True)).run()
    for name in ("samples.jsonl", "hard.jsonl", "solve_rates.jsonl", "rewards.jsonl"):
        assert (broken / name).read_bytes() == (config["output"] / name).read_bytes()


def test_nothing_is_overwritten_or_mixed(policy: type[ScriptedPolicy], config: dict[str, Any]) -> None:
    Hard(settings=HardConfig(model="tiny", **config)).run()
    with pytest.raises(CheckpointError, match="--resume"):
        Hard(settings=HardConfig(model="tiny", **config)).run()
    with pytest.raises(ConfigError, match="n_samples"):
        Hard(settings=HardConfig(model="tiny", **config | {"zero_of": 4}, resume=True)).run()
    with pytest.raises(ConfigError, match="zero_of"):
        Hard(settings=HardConfig(model="tiny", **config | {"zero_of": 0})).run()


def test_nothing_hard_is_said(
    policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"question": f"{a} + 1? {'ab'[a % 2]}", "answer": a + 1}) for a in range(4)]
    (tmp_path / "easy.jsonl").write_text("\n".join(rows))
    Hard(
        settings=HardConfig(model="tiny", **config | {"task": f"jsonl:{tmp_path / 'easy.jsonl'}", "zero_of": 64})
    ).run()
    assert (config["output"] / "hard.jsonl").read_text() == ""
    assert "0 of 3 problems never solved" in capsys.readouterr().out
