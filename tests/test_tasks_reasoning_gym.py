"""reasoning-gym: its own scorer decides, in a process that may be killed."""

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks import load_task
from expo_lite.tasks.reasoning_gym import WORKER, ReasoningGym, is_safe
from expo_lite.tasks.splits import normalised

NAMES = [
    *("basic_arithmetic", "binary_matrix", "codeio", "coin_flip", "complex_arithmetic", "countdown", "dice", "gcd"),
    *(
        "family_relationships",
        "figlet_font",
        "isomorphic_strings",
        "knights_knaves",
        "maze",
        "n_queens",
        "number_format",
    ),
    *("number_sorting", "palindrome_generation", "polynomial_multiplication", "rotate_matrix", "simple_integration"),
    *("spell_backward", "sudoku", "syllogism", "time_intervals", "tower_of_hanoi", "word_ladder", "zebra_puzzles"),
]
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
    problem = every._made(name, "test", "0")
    assert problem.answer and problem.subject == name and problem.expert_chain is None
    assert right(every, problem, problem.answer)
    assert right(every, problem, f"  {problem.answer}\n")
    for wrong in ("xyzzy", ""):
        assert not right(every, problem, wrong)
    assert not every.grade(problem, f"\\boxed{{{problem.answer}}}", truncated=True).correct


@needs_the_package
def test_a_reply_that_never_ends_costs_its_time_limit_and_no_more(every: ReasoningGym) -> None:
    problem = every._made("countdown", "test", "0")
    start = time.process_time()
    verdict = every.grade(problem, "\\boxed{9**9**9**9**9}")
    assert (verdict.correct, verdict.reason) == (False, "timeout")
    assert time.process_time() - start < 1  # the limit is the other process's
    assert right(every, problem, problem.answer)  # a new worker


@needs_the_package
def test_a_worker_that_somebody_kills_loses_no_verdict(every: ReasoningGym) -> None:
    problem = every._made("countdown", "test", "0")
    pid = WORKER.pid
    assert pid is not None
    threading.Timer(0.05, os.kill, (pid, signal.SIGKILL)).start()
    for _ in range(3):
        assert right(every, problem, problem.answer)
        time.sleep(0.04)


@pytest.mark.parametrize("name", ["spiral_matrix", "countdown", "polynomial_multiplication", "n_queens"])
def test_no_reply_is_run_as_a_program(name: str, tmp_path: Path) -> None:
    for reply in (
        f"open('{tmp_path}/x','w')",
        "__import__('os').system('true')",
        "().__class__.__base__",
        "[print(1) for _ in [1]]",
        "exec(chr(49))",
        "preview(1)",
        "1 .real.__class__",
    ):
        assert not is_safe(name, reply), reply


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("countdown", "40*(94 - 90) + 83 - 74"),
        ("simple_integration", "2*x**9/3 - 7*x**7 + sin(x) + C"),
        ("polynomial_multiplication", "-152*y**5 - 2.5*y"),
        ("spiral_matrix", "8 1 3 9 -1"),
        ("n_queens", "_ _ Q _\nQ _ _ _"),
    ],
)
def test_proper_answers_are_shown_to_the_scorer(name: str, reply: str) -> None:
    assert is_safe(name, reply)


@needs_the_package
def test_the_problems_are_the_same_in_every_process() -> None:
    names = "isomorphic_strings,word_ladder,polynomial_multiplication"  # made differently for other string hashes
    task, again = load(names), load(names)
    nine, few = task.problems("test", limit=9), task.problems("train", limit=7, seed=3)
    WORKER.close()
    assert nine == again.problems("test", limit=9)
    assert [p.subject for p in few] == ["isomorphic_strings"] * 3 + ["word_ladder"] * 2 + [
        "polynomial_multiplication"
    ] * 2
    assert few == again.problems("train", limit=7, seed=3) != task.problems("train", limit=7, seed=4)
    assert right(again, few[0], few[0].answer)  # made by another


@needs_the_package
@pytest.mark.parametrize("name", ["gcd", "coin_flip"])  # the second repeats itself a lot
def test_splits_share_no_question(name: str) -> None:
    task = load(name)
    train = [normalised(problem.question) for problem in task.problems("train")]
    test = [normalised(problem.question) for problem in task.problems("test")]
    assert train and test and len(set(train + test)) == len(train) + len(test)


@needs_the_package
def test_difficulty_settings_reach_their_data_sets() -> None:
    task = load("chain_sum,gcd", "chain_sum.min_terms=9", "chain_sum.max_terms=9", "gcd.max_value=3")
    sums = [p for p in task.problems("test", limit=20) if p.subject == "chain_sum"]
    assert all(sum(p.question.count(sign) for sign in "+-") >= 8 for p in sums)
    for other in (sums[0], Problem("gsm8k/test/0", "Q?", "1")):
        with pytest.raises(DataError, match="is not one of task 'reasoning-gym:chain_sum' with these settings"):
            load("chain_sum").grade(other, "\\boxed{1}")


@needs_the_package
@pytest.mark.parametrize(
    ("names", "difficulty", "text"),
    [
        ("chain_sums", (), "chain_sums made no item 0: ValueError"),
        ("chain_sum", ("terms=3",), "unexpected keyword argument 'terms'"),
        ("chain_sum", ("seed=3",), "multiple values for keyword argument 'seed'"),
        ("chain_sum", ("min_terms=9", "max_terms=2"), "chain_sum made no item 0"),
        ("chain_sum", ("min_terms",), "Cannot read --difficulty 'min_terms': expected KEY=VALUE"),
        ("chain_sum", ("gcd.max_value=3",), "Cannot read --difficulty 'gcd.max_value=3'"),
        ("gcd,graph_color", (), "graph_color made no item 0: it has no reference answer"),
        (",", (), "expected reasoning-gym:NAME"),
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
