"""reasoning-gym: its own scorer decides, in a process that may be killed."""

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from expo_lite.errors import ConfigError
from expo_lite.grading import Grader
from expo_lite.records import Problem
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks import load_task
from expo_lite.tasks.reasoning_gym import WORKER, ReasoningGym, is_safe
from expo_lite.tasks.splits import normalised

NAMES = ["coin_flip", "countdown", "gcd", "n_queens", "simple_integration"]
needs_the_package = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="the extra reasoning-gym is not installed"
)


def load(names: str, *difficulty: str) -> ReasoningGym:
    task = load_task(f"reasoning-gym:{names}", grader=Grader(), options=TaskOptions(difficulty=difficulty))
    assert isinstance(task, ReasoningGym)
    return task


@pytest.fixture(scope="module")
def every() -> ReasoningGym:
    """All data sets at once, in one worker."""
    return load(",".join(NAMES))


def right(task: ReasoningGym, problem: Problem, answer: str) -> bool:
    return task.grade(problem, f"Let me see.\nSo it is \\boxed{{{answer}}}").correct


@needs_the_package
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_answer_is_right_and_other_answers_are_wrong(every: ReasoningGym, name: str) -> None:
    problem = next(p for p in every.test if p.subject == name)
    assert problem.answer and problem.subject == name and problem.expert_chain is None
    assert right(every, problem, problem.answer)
    assert right(every, problem, f"  {problem.answer}\n")
    for wrong in ("xyzzy", ""):
        assert not right(every, problem, wrong)
    assert not every.grade(problem, f"\\boxed{{{problem.answer}}}", truncated=True).correct


@needs_the_package
def test_a_reply_that_never_ends_costs_its_time_limit_and_no_more(every: ReasoningGym) -> None:
    problem = next(p for p in every.test if p.subject == "countdown")
    start = time.process_time()
    verdict = every.grade(problem, "\\boxed{9**9**9**9**9}")
    assert (verdict.correct, verdict.reason) == (False, "timeout")
    assert time.process_time() - start < 1  # the limit is the other process's
    assert right(every, problem, problem.answer)  # a new worker


@needs_the_package
def test_a_worker_that_somebody_kills_loses_no_verdict(every: ReasoningGym) -> None:
    problem = next(p for p in every.test if p.subject == "countdown")
    pid = WORKER.pid
    assert pid is not None
    threading.Timer(0.05, os.kill, (pid, signal.SIGKILL)).start()
    for _ in range(3):
        assert right(every, problem, problem.answer)
        time.sleep(0.04)


@pytest.mark.parametrize("name", ["spiral_matrix", "countdown"])
def test_no_reply_is_run_as_a_program(name: str, tmp_path: Path) -> None:
    for reply in (
        f"open('{tmp_path}/x','w')",
        "__import__('os').system('true')",
        "().__class__.__base__",
        "[print(1) for _ in [1]]",
        "exec(chr(49))",
        "1 .real.__class__",
    ):
        assert not is_safe(name, reply), reply


def test_proper_answers_are_shown_to_the_scorer() -> None:
    assert is_safe("countdown", "40*(94 - 90) + 83 - 74")
    assert is_safe("simple_integration", "2*x**9/3 - 7*x**7 + sin(x) + C")
    assert is_safe("n_queens", "_ _ Q _\nQ _ _ _")


@needs_the_package
def test_the_problems_are_the_same_in_every_process() -> None:
    names = "isomorphic_strings,polynomial_multiplication"  # made differently for other string hashes
    task = load(names)
    WORKER.close()
    again = load(names)
    assert again.test == task.test and again.train == task.train
    assert right(again, task.train[0], task.train[0].answer)


@needs_the_package
def test_splits_share_no_question() -> None:
    task = load("coin_flip")  # it repeats itself a lot
    train = [normalised(problem.question) for problem in task.problems("train")]
    test = [normalised(problem.question) for problem in task.problems("test")]
    assert train and test and len(set(train + test)) == len(train) + len(test)


@needs_the_package
def test_difficulty_settings_reach_their_data_sets() -> None:
    task = load("chain_sum,gcd", "chain_sum.min_terms=9", "chain_sum.max_terms=9", "gcd.max_value=3")
    sums = [p for p in task.problems("test", limit=20) if p.subject == "chain_sum"]
    assert all(sum(p.question.count(sign) for sign in "+-") >= 8 for p in sums)


@needs_the_package
@pytest.mark.parametrize(
    ("names", "difficulty", "text"),
    [
        ("chain_sums", (), "chain_sums makes no items: ValueError"),
        ("chain_sum", ("terms=3",), "unexpected keyword argument 'terms'"),
        ("chain_sum", ("gcd.max_value=3",), "Cannot read --difficulty 'gcd.max_value=3'"),
        ("gcd,graph_color", (), "graph_color has no reference answer"),
    ],
)
def test_unknown_names_and_settings(names: str, difficulty: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(names, *difficulty)
    assert text in str(caught.value)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="uv sync --extra reasoning-gym"):
        load("gcd")
