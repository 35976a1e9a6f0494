"""The arithmetic of chains: equations that hold, and lead to the answer."""

import json
from collections import Counter
from pathlib import Path

import pytest

from expo_lite.grading.arithmetic import check_arithmetic

SOUND = Path(__file__).parent / "data" / "arithmetic_sound.jsonl"
CHAINS = Path(__file__).parent / "data" / "arithmetic_chains.jsonl"
"""60 sound chains and 60 that end in the right answer after a fault, on problems of GSM8K, as small models write.
They were written by another hand than the rules. By the first form of these 55 of the sound ones were found right."""


@pytest.mark.parametrize(
    ("chain", "answer", "right"),
    [
        ("8*7=56. 56+346=402. \\boxed{402}", "402", True),
        ("8*7=54. 54+346=402. \\boxed{402}", "402", False),
        ("8*7=56. \\boxed{402}", "402", None),  # pasted
        ("402-346=56. 56+346=402. \\boxed{402}", "402", None),  # worked out of the answer
        ("It is \\boxed{402}", "402", None),
        ("So 8 * 7 = 56 = 56, and 56 + 346 = \\boxed{402}", "402", True),
        ("8 boxes x 7 apples/box = 56 apples\n56 apples + 346 apples = **402** apples", "402", True),
        ("- **Boxes**: 8 \u00d7 7 = 56\n- **All**: 56 + 346 = 402", "402", True),
        ("\\(8 \\times 7 = 56\\) \\[ 56 + 346 = \\boxed{402} \\]", "402", True),
        ("In the 2-day sale she paid $1,000 + $200 = $1,200.", "1200", True),
        ("In the 2-day sale she paid $1,000 + $200 = $1,300.", "1200", False),
        ("20% of 50 = 10", "10", True),
        ("\\(20\\% \\times 50 = 10\\)", "10", True),
        ("169 / 300 * 100% = 61%", "61", False),
        ("183/300 = 61%", "61", True),
        ("1/3 = 0.33", "0.33", True),
        ("1/3 = 0.34", "0.34", True),  # rounded up in the last place
        ("1/3 = 0.35", "0.35", False),
        ("26/4 = 6 buses", "6", True),
        ("26/2 = 12 buses", "12", False),
        ("\\frac{6}{2} = 3", "3", True),
        ("2x + 3 = 7, so x = 2", "2", None),  # with a variable
        ("2x + 3 = 9\n9 - 3 = 6\n6 / 2 = 3", "3", None),  # 3 is used before it is a result
        ("2x + 4 = 10\n10 - 4 = 6\n6 / 2 = 3", "3", True),
        ("15 gallons = 120 pints. 120 / 5 = 24", "24", True),  # nothing is worked out in the first
        ("1/0 = 5. 2 + 3 = 5", "5", True),  # not read
        ("5 boxes x $3 = $15", "15", True),
        ("5 boxes x $3 = $16. 16 - 1 = 15", "15", False),
        ("(5 apples + 10 pears) x 2 = 31. 31 - 16 = 15", "15", False),
        ("Tom + 5 = 12, so Tom = 12 - 5 = 7", "7", True),  # a word stands for a number
        ("2a + 4 = 20, 2a = 16, a = 16 / 2 = 8", "8", True),
        ("3/4 of the students = 3/4 * 80 = 60", "60", True),
        ("7/9 * 100 = 77.78%", "77.78", True),
        ("2/8 = 0.25 = 25%", "25", True),
        ("20% of 50 = 1000", "1000", False),
        ("80 * 50% = 4000. 4000/100 = 40", "40", False),
        ("1 hour + 30 minutes = 90 minutes", "90", None),  # units explain it
        ("$50 + 20% = $60", "60", None),
        ("half of (10 + 6) = 8", "8", None),
        ("Try x = 2: 2*2 + 1 = 7? No, 5. Then 2*4 - 1 = 7", "7", True),
        ("1/2 + 1/3 = 2/5", "2/5", False),
        ("$2.50 + $3.75 = $7", "7", False),
        ("1,200 - 200 = 1,000. 1,000 + 200 = 1,200", "1200", None),
        ("12 \\div 1/2 = 24", "24", True),  # as models write it
        ("Total = 5 + 3\n= 8", "8", True),
        ("2 + 3 = 5", "x + 1", None),  # no number
        ("1 1/2 miles = 1.5 x 5,280 = 7,920 feet", "7920", True),
        ("\\begin{aligned} 8 \\cdot 7 + 346 &= 56 + 346 \\\\ &= 402 \\end{aligned}", "402", True),
        ("\\begin{aligned} 8 \\cdot 7 + 346 &= 57 + 346 \\\\ &= 402 \\end{aligned}", "402", False),
        ("180° - 70° = 110°", "110", True),
        ("$180^\\circ - 70^{\\circ} = 120^\\circ$, so 110", "110", False),
        ("2 / 1/6 = 12", "12", True),
        ("(3x-2) * 1 + 1 = 3x-1 = 11 at x = 4, 3 * 4 - 1 = 11", "11", True),  # x-2 is no word
        ("\\gcd(378-315,315) = \\gcd(63,315), and 21 * 3 = 63", "63", True),
        ("$\\frac{3}{9} = \\frac{1}{3}$ and $\\frac{4}{12} = \\frac{1}{3}$", "\\frac{1}{3}", True),
    ],
)
def test_the_rules(chain: str, answer: str, right: bool | None) -> None:
    assert check_arithmetic("8 boxes with 7 each, and 346 more", answer, chain) is right


def test_an_answer_that_the_question_has_may_be_used() -> None:
    chain = "12 - 5 = 7. 7 + 5 = 12"
    assert check_arithmetic("12 apples", "12", chain) is True
    assert check_arithmetic("five apples", "12", chain) is None


def test_chains_by_another_hand() -> None:
    found = Counter[tuple[str, bool | None]]()
    for line in CHAINS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["fault"] or "sound", check_arithmetic(row["question"], row["answer"], row["chain"])] += 1
    assert (found["sound", True], found["sound", False]) == (57, 0)
    passed = {fault: n for (fault, right), n in found.items() if right and fault != "sound"}
    assert passed == {"misread": 4, "false_equation": 1}  # of 60; the latter's false step is in words


def test_sound_chains_in_the_styles_of_larger_models() -> None:
    """Written by a third hand that had not seen the rules. The first form called 4 wrong; the one left says "not 9"."""
    rows = [json.loads(line) for line in SOUND.read_text(encoding="utf-8").splitlines()]
    found = Counter(check_arithmetic(row["question"], row["answer"], row["chain"]) for row in rows)
    assert found == {True: 107, None: 52, False: 1}


@pytest.mark.parametrize(
    "chain",
    [
        "5 " + "ab-cd-" * 20_000 + "!",
        "5 " + "a " * 50_000 + "!",
        "\n" * 100_000 + "=",
        "\\boxed{" * 5_000,
        "1=" * 20_000,
        "9" * 100_000 + "+1=2",
        "9^9^9^9^9+1=3",
        "1+" * 20_000 + "1=2",
        "(1" * 20_000 + "=1",
    ],
)
@pytest.mark.timeout(10)
def test_no_chain_takes_long(chain: str) -> None:
    assert check_arithmetic("", "4", chain) is None
