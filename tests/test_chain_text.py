"""A chain without its answer: statements of the answer in shapes made by rule."""

from itertools import product

import pytest

from expo_lite.step.chain_text import before_answer, up_to_answer

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


def test_every_statement_goes_and_every_step_stays() -> None:
    for opening, steps, between, closing in product(OPENINGS, STEPS, BETWEEN, CLOSINGS):
        text = opening + between.join(steps).format("42") + closing
        before = before_answer(text)
        wanted = between.join(steps).format("").rstrip()
        assert wanted in before, text
        assert before.count("42") == wanted.count("42"), text  # only what comes up inside the steps


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
        # the answer alone, after or before steps that do not lead to it: as a model in training learned to write
        ("9*8=72. 72+360=426. 432. \\boxed{432}", "9*8=72. 72+360=426. "),
        ("9*8=72. 72+360=426.\n432\n\\boxed{432}", "9*8=72. 72+360=426.\n\n"),
        ("432. 9*8=72. 72+360=426. \\boxed{432}", " 9*8=72. 72+360=426. "),
        ("9*8=72. **432** stickers. 72+360=426. \\boxed{432}", "9*8=72. 72+360=426. "),
        (
            "20+22=42.\n42 apples - 2 apples = 40.\n40+2=42.\n\\boxed{42}",
            "20+22=42.\n42 apples - 2 apples = 40.\n40+2=",
        ),
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
    for text in (
        "= 42 " * 4_000,
        "the answer is " * 4_000,
        "4" * 20_000,
        "$" * 20_000,
        " " * 4_000,
        "\n" * 20_000,
        "42. " * 4_000,
        "42" + "$ )" * 9_000,
    ):
        before_answer(text + "\n\\boxed{42}")
