r"""Check the arithmetic of a chain of thought: whether its equations hold, and lead to the answer.

A verifier of final answers accepts a chain that pastes the answer after wrong steps. Read here are equations of numbers
alone, `8*7 = 56`, in text, Markdown or LaTeX, with units or without: "5 boxes x $3 = $15", `\(20\% \times 50 = 10\)`,
`2 + 3 = 10/2 = 5`. One with a variable is not read, nor is one that states a number without working it out ("x = 4").
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from expo_lite.grading.comparing.expression import NotUnderstood, parse
from expo_lite.grading.comparing.leaves import NotRational, exact_value

_NO_PART = re.compile(
    r"<<[^<>]*>>|\\(?:text|mathrm)\s*\{[^{}]*\}|\\(?:left|right|quad|[,;!])|\\(?=%)|\*\*|\\?\$|&|(?<=\d),(?=\d{3}(?!\d))"
    r"|^[ \t]*(?:[-*•]|\d+[.)])\s", re.MULTILINE
)  # fmt: skip
"""Calculator notes, units in LaTeX, layout, currency, thousands commas and bullets."""
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*+)\}")
_TIMES = re.compile(r"[\u00d7\u00b7]|(?<=[\d)%])\s*\b(?:of|x|X|times)\b\s*(?=[\d.(\\])")
_BREAK = re.compile(r"\n|[.;:?!,](?=\s|$)|\\[()\[\]\\]")
_EQUALS = re.compile(r"=|≈|\\approx")
_WORD = r"(?:/\s*|(?<=\d)-)?(?<![\\A-Za-z])(?:[^\W\d_][\w'\u2019-]++|[aAI](?!\w))"
"""A word, or a unit as in "6 miles/hour" and "3-day"; a single letter is a variable."""
_UNIT = re.compile(rf"(?<=[\d)%}}])\s*+(?:{_WORD}\s*+)++(?=[-+*/\u00f7]|\\|$)")
_SIGN = re.compile(r"[-+*/\u00f7^]|\\(?:[dt]?frac|times|cdot|div)")
_NUMBER = re.compile(r"(?<![\d.])\d{0,40}\.?\d{1,40}(?![\d])")


def check_arithmetic(question: str, answer: str, chain: str) -> bool | None:
    """Check the equations of a chain that ends in the right answer.

    Args:
        question: with the numbers that are given.
        answer: the right one.
        chain: what the model wrote.

    Returns:
        False if an equation is wrong. True if all that are read hold, and the answer is the result of one before any
        other uses it. Else None: nothing shows that the steps are right, or wrong.
    """
    gold, given, worked_out, leads_there = _value(_cleaned(answer)), _numbers(question), set[Fraction](), True
    for left, right in _equations(chain):
        a, b = _value(left), _value(right)
        if a is None or b is None:
            continue
        if not _holds(a, b, left + right, right):
            return False
        leads_there &= gold not in _numbers(left) - given - worked_out
        worked_out |= {b, *_numbers(right)}
    return True if leads_there and gold is not None and {gold, gold / 100} & worked_out else None


def _equations(chain: str) -> Iterator[tuple[str, str]]:
    """Both sides of each equation, without words, where the left one is worked out."""
    for line in _BREAK.split(_cleaned(chain)):
        sides = [re.split(_WORD, _UNIT.sub(" ", side)) for side in _EQUALS.split(line)]
        for before, after in pairwise([[part.strip() for part in side if part.strip()] for side in sides]):
            if before and after and _SIGN.search(before[-1].lstrip("-(")):
                yield before[-1], after[0]


def _cleaned(text: str) -> str:
    text = _BOX.sub(r"\1", _NO_PART.sub(" ", text).replace("\u2212", "-").replace("\u2013", "-"))
    return _TIMES.sub("*", text)


def _numbers(text: str) -> set[Fraction]:
    return {Fraction(number) for number in _NUMBER.findall(_cleaned(text))}


def _value(text: str) -> Fraction | None:
    try:
        return exact_value(parse(text.replace("\u00f7", "/")))
    except (NotUnderstood, NotRational, ZeroDivisionError):
        return None


def _holds(a: Fraction, b: Fraction, written: str, result: str) -> bool:
    """Compare both sides: percent may be written as a number, and what is no whole number may be rounded or cut."""
    if "%" in written and b in (100 * a, a / 100):
        return True
    percent, places = 100 if "%" in result else 1, len(result.partition(".")[2].rstrip("%) "))
    a, b = percent * a, percent * b
    return a == b or (a.denominator > 1 and abs(a - b) < Fraction(1, 10**places))
