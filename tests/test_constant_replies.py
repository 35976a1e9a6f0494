"""No constant reply may be right for two problems whose answers differ: a policy would find it in a night."""

import json
from itertools import combinations, product
from pathlib import Path

import pytest

from expo_lite.grading import GradeItem, Grader, judge

DATA = Path(__file__).parent / "data"
GOLDS = json.loads((DATA / "constant_golds.json").read_text("utf-8"))
"""500 reference answers: of GSM8K, of MATH-500 and of the built-in task."""
CONSTANTS = json.loads((DATA / "constant_replies.json").read_text("utf-8"))
NUMBERS = [str(number) for number in range(100)]
REPLIES = [
    *(f"So the answer is $\\boxed{{{answer}}}$." for answer in CONSTANTS["boxed"]),
    *CONSTANTS["whole"],
    *(rf"\boxed{{{sign.join(NUMBERS)}}}" for sign in (",", " ", "=", r"\text{ or }", r"\approx ", r"\\", r"\quad ")),
    r"\boxed{\{" + ",".join(NUMBERS) + r"\}}",
    "#### " + " ".join(NUMBERS),
    "1" * 2000,
    r"\boxed{" + "(" * 500 + "}",
]


def winners(grader: Grader, replies: list[str], golds: list[str]) -> dict[str, list[str]]:
    """The golds that each reply is right for, where these are more than one and differ."""
    pairs = list(product(replies, golds))
    verdicts = grader.grade_many([GradeItem(gold, reply) for reply, gold in pairs])
    right: dict[str, list[str]] = {}
    for (reply, gold), verdict in zip(pairs, verdicts, strict=True):
        if verdict.correct:
            right.setdefault(reply, []).append(gold)
    return {reply: won for reply, won in right.items() if not all(judge(*two)[0] for two in combinations(won, 2))}


def test_the_lists_are_long_enough() -> None:
    assert len(set(REPLIES)) >= 300
    assert len(set(GOLDS)) == 500


def test_no_constant_reply_is_right_for_two_golds() -> None:
    with Grader() as grader:
        assert winners(grader, REPLIES, GOLDS[::24]) == {}


@pytest.mark.slow
def test_no_constant_reply_is_right_for_two_of_all_golds() -> None:
    with Grader() as grader:
        assert winners(grader, REPLIES, GOLDS) == {}


def test_a_reply_that_wins_twice_is_found() -> None:
    with Grader() as grader:
        assert winners(grader, [r"\boxed{28}"], ["28", "28.0", "29"]) == {}
        assert winners(grader, [r"\boxed{28}"], ["28", r"28\text{ m}", r"28\text{ s}"]) != {}
