"""examples/boxes.py: splits that share no numbers, lessons that tell nothing, and valid chains."""

import random
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from expo_lite.records import Problem

boxes = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "boxes.py"), run_name="boxes")
TASK = boxes["TASK"]
CHAIN = r"8*7=56. 56+346=402. \boxed{402}"
PROBLEM = Problem("p", "Karl buys 8 boxes with 7 stickers in each and finds 346 more. ...", "402", 5, None, CHAIN)


def words_and_products(problems: list[Problem]) -> set[str]:
    """Names, things and products of the problems; the letters of a product in either order are one."""
    found: set[str] = set()
    for problem in problems:
        found |= set(re.findall(r"^\w+|\w+(?= in each)", problem.question))
        found |= {"*".join(sorted(pair)) for pair in re.findall(r"(\d+)\*(\d+)=", problem.expert_chain or "")}
    return found


def test_the_lessons_tell_nothing_of_the_levels_to_learn() -> None:
    rng = random.Random(0)
    drawn = [boxes["problem"](rng, level, boxes["LESSON_NAMES"], boxes["LESSON_THINGS"]) for level in (1, 2, 3) * 500]
    for split in ("train", "test"):
        hard = TASK.problems(split, levels=(4, 5))
        assert not words_and_products(hard) & words_and_products(drawn)
        products = {word for word in words_and_products(hard) if "*" in word}
        assert products == {"6*7", "6*8", "6*9", "7*7", "7*8", "7*9", "8*8", "8*9", "9*9"}
    for problem in drawn:
        assert TASK.check_steps(problem, problem.expert_chain)


def test_the_splits_differ_in_their_numbers() -> None:
    train, test = TASK.problems("train"), TASK.problems("test")
    assert not {problem.expert_chain for problem in train} & {problem.expert_chain for problem in test}
    assert [len(TASK.problems("test", levels=(level,))) for level in TASK.levels] == [200] * 5
    for problem in test:
        assert TASK.grade(problem, problem.expert_chain).correct
        assert TASK.check_steps(problem, problem.expert_chain)


@pytest.mark.parametrize(
    ("chain", "valid"),
    [
        (CHAIN, True),
        (r"7*8=56. 346+56=402. \boxed{402}.", True),
        (r"8*7=54. 54+346=402. \boxed{402}", False),  # the answer is copied after a wrong step
        (r"8*7=58. 58+344=402. \boxed{402}", False),
        (r"8*7=56. 56+346=392. \boxed{402}", False),
        (r"402*1=402. \boxed{402}", False),
        (r"8*7=56. 56+346=402. 402=402. \boxed{402}", False),
        (r"56+346=402. 8*7=56. \boxed{402}", False),
        (r"8*7=56. 56+346=402. \boxed{402} or \boxed{56}", False),
        (r"\boxed{402}", False),
        ("", False),
    ],
)
def test_a_chain_is_valid_if_its_equations_are_the_experts(chain: str, valid: bool) -> None:
    assert TASK.check_steps(PROBLEM, chain) is valid


def test_a_difference_keeps_its_order() -> None:
    problem = replace(PROBLEM, answer="26", expert_chain=r"8*7=56. 56-30=26. \boxed{26}")
    assert TASK.check_steps(problem, r"7*8=56. 56-30=26. \boxed{26}")
    assert not TASK.check_steps(problem, r"7*8=56. 30-56=26. \boxed{26}")
