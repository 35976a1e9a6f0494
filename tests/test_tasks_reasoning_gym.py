"""reasoning-gym: answers that must be right or wrong in every data set, and replies that break its scorers."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks import load_task
from expo_lite.tasks.reasoning_gym import WORKER, ReasoningGym
from expo_lite.tasks.reasoning_gym_worker import fits, is_safe
from expo_lite.tasks.splits import normalised

NAMES = [
    "ab",
    "acre",
    "advanced_geometry",
    "aiw",
    "arc_1d",
    "arc_agi",
    "base_conversion",
    "basic_arithmetic",
    "bf",
    "binary_alternation",
    "binary_matrix",
    "bitwise_arithmetic",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "circuit_logic",
    "codeio",
    "coin_flip",
    "color_cube_rotation",
    "complex_arithmetic",
    "count_bits",
    "count_primes",
    "countdown",
    "course_schedule",
    "cryptarithm",
    "decimal_arithmetic",
    "decimal_chain_sum",
    "dice",
    "emoji_mystery",
    "family_relationships",
    "figlet_font",
    "fraction_simplification",
    "futoshiki",
    "game_of_life",
    "game_of_life_halting",
    "gcd",
    "group_anagrams",
    "gsm_symbolic",
    "intermediate_integration",
    "isomorphic_strings",
    "jugs",
    "kakurasu",
    "knight_swap",
    "knights_knaves",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "letter_jumble",
    "list_functions",
    "mahjong_puzzle",
    "manipulate_matrix",
    "maze",
    "mini_sudoku",
    "modulo_grid",
    "n_queens",
    "needle_haystack",
    "number_filtering",
    "number_format",
    "number_sequence",
    "number_sorting",
    "palindrome_generation",
    "palindrome_partitioning",
    "path_star",
    "polynomial_equations",
    "polynomial_multiplication",
    "pool_matrix",
    "power_function",
    "prime_factorization",
    "products",
    "puzzle24",
    "quantum_lock",
    "ransom_note",
    "rearc",
    "rectangle_count",
    "rotate_matrix",
    "rotten_oranges",
    "self_reference",
    "sentence_reordering",
    "shortest_path",
    "simple_equations",
    "simple_geometry",
    "simple_integration",
    "sokoban",
    "spell_backward",
    "spiral_matrix",
    "string_insertion",
    "string_manipulation",
    "string_splitting",
    "string_synthesis",
    "sudoku",
    "survo",
    "syllogism",
    "time_intervals",
    "tower_of_hanoi",
    "tsumego",
    "word_ladder",
    "word_sequence_reversal",
    "word_sorting",
    "zebra_puzzles",
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
    problems = [every._problem(name, "test", index) for index in range(4)]
    for problem in problems[:2]:
        assert problem.answer and problem.subject == name and problem.expert_chain is None
        assert right(every, problem, problem.answer)
        assert right(every, problem, f"  {problem.answer}\n")
        others = [other.answer for other in problems if other.answer.casefold() != problem.answer.casefold()]
        for wrong in ("xyzzy", "", *others[:1]):
            assert not right(every, problem, wrong)
    assert not every.grade(problems[0], f"\\boxed{{{problems[0].answer}}}", truncated=True).correct


@needs_the_package
def test_nothing_with_an_answer_is_left_out() -> None:
    code = "from reasoning_gym.factory import DATASETS; print(*DATASETS)"  # apart: its packages warn
    listed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    refused = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour", "composite"}
    assert set(NAMES) | refused == set(listed.stdout.split())
    assert len(NAMES) == 100


@needs_the_package
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("game_of_life_halting", lambda gold: "False" if gold == "True" else "True"),
        ("spell_backward", lambda gold: gold + "x"),
        ("letter_jumble", lambda gold: gold + " more"),
        ("coin_flip", lambda gold: "0"),
        ("gsm_symbolic", lambda gold: f"{gold} or 7"),
        ("puzzle24", lambda gold: "24*1*1*1"),
        ("number_sorting", lambda gold: gold.replace("'", "").replace(".", ".0")),
    ],
)
def test_wrong_answers_that_reasoning_gym_itself_gives_full_marks(
    every: ReasoningGym, name: str, wrong: Callable[[str], str]
) -> None:
    problems = [every._problem(name, "test", index) for index in range(6)]
    tried = [(p, wrong(p.answer)) for p in problems if p.answer != wrong(p.answer)]
    assert tried and not any(right(every, problem, answer) for problem, answer in tried)


@needs_the_package
def test_a_date_difference_is_exact() -> None:
    task = load("time_intervals", 'task_types=["datetime"]', "max_date_difference_days=1000000")
    problem = task.problems("test", limit=1)[0]
    days, clock = problem.answer.split(", ")
    assert right(task, problem, problem.answer)
    minute = int(clock.split(":")[1])
    near = ":".join([clock.split(":")[0], f"{(minute + 1) % 60:02}", *clock.split(":")[2:]])
    assert not right(task, problem, f"{days}, {near}")


@needs_the_package
def test_a_reply_that_never_ends_costs_its_time_limit_and_no_more(
    every: ReasoningGym, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expo_lite.tasks.reasoning_gym._SCORE_LIMIT_S", 1.0)
    problem = every._problem("countdown", "test", 0)
    start = time.perf_counter()
    verdict = every.grade(problem, "\\boxed{9**9**9**9**9}")
    assert (verdict.correct, verdict.reason) == (False, "timeout")
    assert time.perf_counter() - start < 5
    assert right(every, problem, problem.answer)  # a new worker


@needs_the_package
def test_a_worker_that_somebody_kills_loses_no_verdict(every: ReasoningGym) -> None:
    problem = every._problem("countdown", "test", 0)
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


def test_tighter_rules_by_hand() -> None:
    assert fits("coin_flip", "0.2461", {"answer": "0.24609375"}) and fits(
        "coin_flip", "63/256", {"answer": "0.24609375"}
    )
    assert not fits("coin_flip", "0.25", {"answer": "0.24609375"})
    assert fits("number_sorting", "[1, 2.50]", {"answer": "['1.0', '2.5']"})
    assert not fits("number_sorting", "[1, 2.6]", {"answer": "['1.0', '2.5']"})
    assert fits("puzzle24", "(3+5)*3*1", {"answer": "x", "metadata": {"numbers": [1, 3, 3, 5]}})
    assert fits("gcd", "anything", {"answer": "4"})


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
@pytest.mark.parametrize("name", ["gcd", "coin_flip", "tower_of_hanoi"])  # the last two repeat themselves a lot
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
    with pytest.raises(DataError, match="was made with other settings"):
        load("chain_sum").grade(sums[0], "\\boxed{1}")
    with pytest.raises(DataError, match="is not one of task 'reasoning-gym:chain_sum'"):
        load("chain_sum").grade(Problem("gsm8k/test/0", "Q?", "1"), "\\boxed{1}")


@needs_the_package
@pytest.mark.parametrize(
    ("names", "difficulty", "text"),
    [
        ("chain_sums", (), "reasoning-gym has no data set 'chain_sums'. Did you mean 'chain_sum'?"),
        ("chain_sum", ("terms=3",), "chain_sum has no setting 'terms'; it has"),
        ("chain_sum", ("seed=3",), "chain_sum has no setting 'seed'"),
        ("chain_sum", ("min_terms=9", "max_terms=2"), "chain_sum refuses the settings"),
        ("chain_sum", ("min_terms=many",), "chain_sum refuses the settings"),
        ("chain_sum", ("min_terms",), "Cannot read --difficulty 'min_terms': expected KEY=VALUE"),
        ("chain_sum", ("gcd.max_value=3",), "Cannot read --difficulty 'gcd.max_value=3'"),
    ],
)
def test_unknown_names_and_settings(names: str, difficulty: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(names, *difficulty)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("rubiks_cube", "rubiks_cube has no reference answer, only a checker"),
        ("gcd,graph_color", "graph_color has no reference answer"),
        ("composite", "is a mixture; name the data sets themselves"),
        ("", "expected reasoning-gym:NAME"),
        (",", "expected reasoning-gym:NAME"),
    ],
)
def test_what_has_no_answer_is_refused(names: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(names)
    assert text in str(caught.value)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="uv sync --extra reasoning-gym"):
        load("gcd")
