"""The problems that a model never solves: `eval --write-unsolved FILE` and `--task jsonl:FILE`."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_policy import GRADER, ScriptedPolicy, install, write_problems

from expo_lite.commands.eval import Eval
from expo_lite.errors import CheckpointError
from expo_lite.settings.measuring import EvalConfig
from expo_lite.tasks import load_task


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedPolicy]:
    return install(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    task = f"jsonl:{write_problems(tmp_path / 'sums.jsonl', 90)}"
    unsolved = tmp_path / "files" / "unsolved.jsonl"
    return {
        "target": "tiny",
        "task": task,
        "samples": 8,
        "sampling_rows": 64,
        "output": tmp_path / "eval",
        "write_unsolved": unsolved,
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_unsolved_problems_are_a_task(
    policy: type[ScriptedPolicy], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Eval(settings=EvalConfig(**config)).run()
    out = capsys.readouterr().out.replace("\n", "")
    solved = {row["problem_id"] for row in rows_of(config["output"] / "samples.jsonl") if row["correct"]}
    original = {p.problem_id: p for p in load_task(config["task"], grader=GRADER).problems("train")}
    subset = load_task(f"jsonl:{config['write_unsolved']}", grader=GRADER)
    read = [*subset.problems("train"), *subset.problems("test")]
    assert {p.problem_id: p for p in read} == {name: p for name, p in original.items() if name not in solved}
    # the scripted policy never gets a sum above 90
    assert {p.problem_id for p in original.values() if int(p.answer) > 90} <= {p.problem_id for p in read}
    assert f"{len(read)} of {len(original)} problems" in out
    assert f"expo-lite train --model tiny --task jsonl:{config['write_unsolved']}" in out


def test_a_file_is_not_overwritten_and_a_broken_evaluation_goes_on(
    policy: type[ScriptedPolicy], config: dict[str, Any]
) -> None:
    policy.n_calls, policy.die_at = 0, 3
    with pytest.raises(KeyboardInterrupt):
        Eval(settings=EvalConfig(**config)).run()
    assert not config["write_unsolved"].exists()  # only when all is sampled
    policy.die_at = None
    Eval(settings=EvalConfig(**config, resume=True)).run()
    assert config["write_unsolved"].exists()
    policy.loaded.clear()
    with pytest.raises(CheckpointError, match="--write-unsolved"):
        Eval(settings=EvalConfig(**config | {"output": config["output"].with_name("other")})).run()
    assert not policy.loaded


def test_all_problems_may_be_solved(
    policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"question": f"{a} + 1? {'ab'[a % 2]}", "answer": a + 1}) for a in range(4)]
    (tmp_path / "easy.jsonl").write_text("\n".join(rows))
    Eval(settings=EvalConfig(**config | {"task": f"jsonl:{tmp_path / 'easy.jsonl'}", "samples": 64})).run()
    assert config["write_unsolved"].read_text() == ""
    assert "0 of 3 problems" in capsys.readouterr().out
