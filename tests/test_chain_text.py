"""What a chain's text says: leaks against two tables, and statements of the answer in shapes made by rule."""

import json
from itertools import product

import leak_tables
import pytest

from expo_lite.step.chain_text import before_answer, leaks, up_to_answer

ROWS = [json.loads(line) for line in leak_tables.FILE.read_text(encoding="utf-8").splitlines()]


def test_the_committed_tables_are_what_the_rule_makes() -> None:
    assert leak_tables.table() == ROWS
    for leak in (True, False):
        assert sum(row["leak"] is leak for row in ROWS) >= 60
    tuned = {row["template"] for row in ROWS if row["half"] == "tune"}
    assert not tuned & {row["template"] for row in ROWS if row["half"] != "tune"}


def counts(half: str) -> tuple[int, int, int]:
    """Leaks that are found, false alarms, and leaks that are missed."""
    own = [(bool(row["leak"]), leaks(row["text"])) for row in ROWS if row["half"] == half]
    return own.count((True, True)), own.count((False, True)), own.count((True, False))


def test_leaks_are_told_from_what_looks_like_them() -> None:
    assert counts("tune") == (166, 0, 0)
    assert counts("held_out") == (96, 0, 0)


def test_what_the_pattern_does_not_know() -> None:
    """Words that it was not made for pass it by: a filter of phrases is no proof. A better one changes this line."""
    assert counts("later") == (0, 12, 41)


@pytest.mark.parametrize(
    ("text", "leaking"),
    [
        ("The given answer is 5, so we work back.", True),
        ("We are told that the answer is 5.", True),
        ("as the answer is known to be 5", True),
        ("Since the answer is 42, we go back.", True),
        ("Given that the answer is 42, x is 2.", True),
        ("We need to get 42.", True),
        ("We are given 5 apples. The answer is 5.", False),
        ("Therefore the final answer is 5.", False),
        ("40+2=42. Therefore, the correct answer is 42.", False),
        ("The expected result of a throw is 3.5.", False),
        ("Since the result is even, it is 4.", False),
    ],
)
def test_single_leaks(text: str, leaking: bool) -> None:
    assert leaks(text) is leaking


OPENINGS = ("", "The correct answer is 42. ", "Since the answer is 42, ", "We need to get 42. ", "\\boxed{42}\n")
STEPS = (
    ("5 * 4 = 20", "20 * 2 = 40", "40 + 2 = {}"),
    ("20 + 22 = 42", "42 - 2 = 40", "40 + 2 = {}"),  # 42 comes up on the way as well
    ("42 / 2 = 21", "21 * 2 gives {}"),
    ("We have 40 apples", "2 more makes {}"),
)
BETWEEN = (". ", "\n")
CLOSINGS = (
    ".\n\\boxed{42}",
    ". The answer is 42.",
    "\n#### 42",
    ". So the answer is \\boxed{42}.",
    ". So it is 42.\n<answer>42</answer>",
    ". Thus \\boxed{42}. The final answer is $42$.",
)
SHAPES = list(product(OPENINGS, STEPS, BETWEEN, CLOSINGS))


@pytest.mark.parametrize(("opening", "steps", "between", "closing"), SHAPES)
def test_every_statement_goes_and_every_step_stays(
    opening: str, steps: tuple[str, ...], between: str, closing: str
) -> None:
    text = opening + between.join(steps).format("42") + closing
    before = before_answer(text)
    wanted = between.join(steps).format("").rstrip()
    assert wanted in before
    assert before.count("42") == wanted.count("42")  # only what comes up inside the steps


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("1+1=2\n\\boxed{2}.", "1+1="),
        ("I do not know ", "I do not know\n"),
        ("first \\boxed{1}, then \\boxed{2}", "first \\boxed{1}, then "),
        ("1+1=2\n\\boxed{2", "1+1=2\n"),  # not closed: no answer is read
        ("40 + 1,200 = 1,240 dollars. The answer is $1240$.", "40 + 1,200 = "),
        ("x + x = 2x\n\\boxed{2x}", "x + x = "),
        ("A:4 hop+3=7\nB:7 hop+3=0\n\\boxed{A=7, B=0}", "A:4 hop+3=7\nB:7 hop+3=0\n"),
        ("40 + 2 = 420, so \\boxed{42}", "40 + 2 = 420, so "),  # another number
        ("Add 42.\n\\boxed{42}", "Add 42.\n"),  # no result: it stands behind no sign or word of one
        ("6*7 = 42 apples. Therefore 42 apples.\nThe answer is \\boxed{42}.", "6*7 = "),
        ("1/2 + 1/4 = \\frac{3}{4}. So \\boxed{\\frac{3}{4}}", "1/2 + 1/4 = "),
    ],
)
def test_before_answer_by_hand(text: str, before: str) -> None:
    assert before_answer(text) == before


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("1+1=2\n\\boxed{2}.", "1+1=2\n"),
        ("I do not know ", "I do not know\n"),
        ("1+1=2. The answer is 2.", "1+1=2. "),
        ("1+1=2\n#### 2", "1+1=2\n"),
        ("1+1=2, so \\boxed{2}. The answer is \\boxed{2}.", "1+1=2, so "),
        ("1+1=2. The answer is 2. And so: answer: 2", "1+1=2. "),
        ("first \\boxed{1}, then \\boxed{2}", "first \\boxed{1}, then "),
        ("1+1=2\n\\boxed{2", "1+1=2\n"),
    ],
)
def test_up_to_answer(text: str, before: str) -> None:
    assert up_to_answer(text) == before


def test_a_long_reply_is_read_in_linear_time() -> None:
    """A pattern that goes back and forth over a long stretch would not end within the suite's patience."""
    for text in ("= 42 " * 4_000, "the answer is " * 4_000, "4" * 20_000, "$" * 20_000, " " * 4_000):
        before_answer(text + "\n\\boxed{42}")
        leaks(text)
