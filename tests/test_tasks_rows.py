"""Tasks out of Python objects: rows, problems, and a judge of one's own, trained on for real."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expo_lite import ConfigError, DataError, HeldOutConfig, Problem, TrainConfig, task_from_rows, train
from expo_lite.records import Completion, FinishReason, Group, GroupKind
from expo_lite.run.metrics import group_metrics
from expo_lite.settings.train import resolve
from expo_lite.step.methods import Experience, grpo_rows

ROWS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "level": 1 + i % 2} for i in range(20)]


def test_rows_and_problems_are_split_like_a_file() -> None:
    task = task_from_rows([*ROWS, Problem("own", "And 50 + 50?", "100")])
    train_split, test_split = task.problems("train"), task.problems("test")
    assert len(train_split) + len(test_split) == 21
    assert test_split
    assert task.levels == (1, 2)
    assert {p.problem_id for p in (*train_split, *test_split)} == {"own", *(f"rows/train/{i}" for i in range(20))}
    assert task.grade(train_split[0], f"It is \\boxed{{{train_split[0].answer}}}.").correct


def test_a_judge_by_hand() -> None:
    problem = Problem("p", "Name a colour.", "any")

    def judge(problem: Problem, completion: str) -> bool:
        if not completion:
            raise ValueError("nothing said")
        return "red" in completion

    task = task_from_rows([problem], correct=judge)
    assert task.grade(problem, "red").correct
    assert task.grade(problem, "blue").reason == "different"
    assert task.grade(problem, "red", truncated=True).reason == "truncated"
    with pytest.warns(RuntimeWarning, match="nothing said"):
        assert task.grade(problem, "").reason == "raised"
    for nonsense in (1.5, "yes"):
        with pytest.raises(ConfigError, match=rf"reward from 0 to 1, not {nonsense!r} \(problem 'p'\)"):
            task_from_rows([problem], correct=lambda _p, _c, said=nonsense: said).grade(problem, "red")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("judged", "reward", "reason"),
    [
        *((np.bool_(True), 1.0, "equal"), (np.int64(1), 1.0, "equal"), (np.float32(1.0000001), 1.0, "equal")),
        *((np.bool_(False), 0.0, "different"), (np.float32(0.25), 0.25, "partial"), (torch.tensor(1), 1.0, "equal")),
    ],
)
def test_a_judge_may_return_numbers_of_any_library(judged: Any, reward: float, reason: str) -> None:
    problem = Problem("p", "Name a colour.", "any")
    verdict = task_from_rows([problem], correct=lambda _p, _c: judged).grade(problem, "red")
    assert (verdict.reward, verdict.reason, type(verdict.reward)) == (reward, reason, float)


@pytest.mark.parametrize("judged", [None, math.nan, np.float32("nan")])
def test_a_judge_without_a_verdict_is_named_with_the_problem(judged: Any) -> None:
    problem = Problem("p", "Name a colour.", "any")
    with pytest.warns(RuntimeWarning, match=rf"returned {re.escape(repr(judged))} for problem 'p'"):
        verdict = task_from_rows([problem], correct=lambda _p, _c: judged).grade(problem, "red")
    assert (verdict.reward, verdict.reason) == (0.0, "no_reward")


def test_a_judge_s_rewards_are_learned_from_where_all_are_wrong() -> None:
    problem = Problem("p", "Name two primary colours.", "any")
    task = task_from_rows([problem], correct=lambda _p, text: sum(c in text for c in ("red", "blue", "yellow")) / 2)
    texts = ("red and blue", "red", "grey", "blue and green")
    verdicts = tuple(task.grade(problem, text) for text in texts)
    assert [(v.correct, v.reward, v.reason) for v in verdicts] == [
        (True, 1.0, "equal"), (False, 0.5, "partial"), (False, 0.0, "different"), (False, 0.5, "partial")
    ]  # fmt: skip
    completions = tuple(Completion((1,), (2,), (-0.5,), text, FinishReason.STOP) for text in texts)
    wrong = Group(problem, completions[1:], verdicts[1:])
    assert (wrong.kind, wrong.is_dead, wrong.rewards) == (GroupKind.ALL_WRONG, False, (0.5, 0.0, 0.5))
    # mean 1/3; the deviation of 1/6, -1/3, 1/6 over n - 1 is sqrt(1/12)
    rows = grpo_rows(Experience((wrong,), (), 0.0), resolve(TrainConfig(model="tiny")))
    assert [row.advantage for row in rows] == pytest.approx([0.57715, -1.15430, 0.57715], abs=1e-4)
    metrics = group_metrics([wrong])
    assert (metrics["frac_all_wrong"], metrics["frac_reward_zero_std"]) == (1.0, 0.0)
    assert metrics["reward"] == pytest.approx(1 / 3)
    assert [v.to_json().get("partial") for v in verdicts] == [None, 0.5, None, 0.5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        (["?"], "train row 0: expected a Problem or a mapping, got str"),
        ([Problem("a", "1?", "1"), Problem("a", "2?", "2")], "train row 1: the problem_id 'a' comes a second time"),
    ],
)
def test_what_is_no_row_is_named(rows: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_from_rows(rows)  # type: ignore[arg-type]


def test_a_run_on_rows_with_a_judge(tmp_path: Path) -> None:
    task = task_from_rows(ROWS, test_rows=ROWS[:2], correct=lambda _, text: len(text) % 2 == 0, name="even-lengths")
    held_out = HeldOutConfig(eval_problems=1, eval_samples=1)
    config = TrainConfig(model="tiny", steps=1, group_size=2, output=tmp_path / "run", evaluation=held_out)
    result = train(config, task=task)
    assert result.finished
    rows = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    rollouts = [row for row in rows if row["kind"] == "rollout"]
    assert {row["how"] for row in rollouts} <= {"function", "truncated"}
    assert all(row["correct"] == (len(row["completion"]) % 2 == 0) for row in rollouts if row["how"] == "function")
    assert json.loads((result.folder / "config.json").read_text())["settings"]["task"] == "even-lengths"
