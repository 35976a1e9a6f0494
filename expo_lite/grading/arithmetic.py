r"""Check the arithmetic of a chain of thought: its equations must hold, and lead to the answer.

A verifier of final answers accepts a chain that pastes the answer after wrong steps. This reads the equations of
numbers in a chain, with or without units, in text, Markdown or LaTeX: "5 boxes x $3 = $15", `\(20\% \times 50 = 10\)`,
`2 + 3 = 10/2 = 5`. It skips equations with a variable, and those that only state a number ("x = 4"). It does not check
where numbers come from: a chain that misreads the question can pass.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from expo_lite.grading.comparing.expression import NotUnderstood, parse
from expo_lite.grading.comparing.leaves import NotRational, exact_value

_REWRITTEN = tuple(
    (re.compile(pattern, re.MULTILINE), instead)
    for pattern, instead in (
        (
            r"<<[^<>]*>>|\*\*|`|\\(?:left|right|quad|[,;!])|\\(?:begin|end)\s*\{[a-z]+\*?\}|\\?[$£€]|&|\\(?=[%*])"
            r"|\u00b0|\\degree\b|\^\s?\{?\\circ\b\}?",
            "",
        ),  # notes, layout, currency, degrees
        (r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*+)\}", r"\1"),
        (r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))", ""),
        (r"[\u2212\u2013]", "-"),
        (r"(?:\n|\\\\)[ \t]*\n?[ \t]*(?==)", " "),
        (r"(?:^|(?<=[.;:!,?]))[^.;:!,?\n]*+\?", ""),  # a guess
        (r"(?<!\d)\d++(?:st|nd|rd|th)\b", "nth"),
        (r"^[ \t]*(?:[-*\u2022]|\(?\d+[.)])\s", ""),  # a bullet
        (r"\([A-Za-z][A-Za-z ,'-]*\)", " "),
        (r"\band\b(?!\s+\d+/\d)", ";"),
        (r"[\u00d7\u00b7]|\\(?:times|cdot)\b", "*"),
        (r"(?:(?<=[\d)%])\s*(?:[xX]|\btimes)\s*|(?<=[a-z])\s+[xX]\s+)(?=[\d.(\\])", "*"),
        (r"(%|/\s*\d+\)?)\s+of\s+(?=[\d.(\\])", r"\1*"),
        (r"(?:\u00f7|\\div|/(?=\s))\s*(\d+/\d+)", r"/(\1)"),
        (r"\u00f7|\\div", "/"),
    )
)
_BREAK = re.compile(r"\n|[.;:!,](?=\s|$)|\\[()\[\]\\]")
_EQUALS = re.compile(r"(=|\u2248|\\approx)")
_WORD = (
    r"(?:/\s*|(?<=\d)-)?(?<![\\A-Za-z])(?:[^\W\d_]['\u2019-]?[^\W\d_](?:[^\W_]|['\u2019-])*+|[aI](?=\s+[A-Za-z]{2}))"
)
"""A word, or a unit as in "6 miles/hour" and "3-day"; another single letter is a variable."""
_UNIT = re.compile(rf"(?<=[\d)%}}])\s*+(?:{_WORD}\s*+)++(?=[-+*/)]|\\|$)")
_UNKNOWN = re.compile(
    r"(?<!\\)\b(?:half|twice|double|triple|average|mean|sum|sqrt|abs|mod|plus|minus|by|times"
    r"|dozen|hundred|thousand|million|billion|cents?|[ap]\.?m|sin|cos|tan|ln|log|gcd|lcm)\b(?:\s+of\b)?|[A-Za-z]{2,}(?=[(_])",
    re.IGNORECASE,
)
"""Words by which more than the figures is meant, and names of functions."""
_SIGN = re.compile(r"[-+*/^]|\\[dt]?frac")
_SHARE = re.compile(r"(?:\d+ )?\d+/\d+|\\[dt]?frac\{\d+\}\{\d+\}")
_NUMBER = re.compile(r"(?<![\d.])\d{0,40}\.?\d{1,40}(?!\d)")


def check_arithmetic(question: str, answer: str, chain: str) -> bool | None:
    """Check the equations of a chain that ends in the right answer.

    Args:
        question: with the numbers that are given.
        answer: the right one.
        chain: what the model wrote.

    Returns:
        False if an equation is wrong. True if every equation that was read holds, and the answer is a result before it
        is used. None if the equations do not tell.
    """
    gold, given = _value(_cleaned(answer)), _numbers(_cleaned(question))
    worked_out, leads_there = set[Fraction](), True
    for left, right, doubtful in _equations(_cleaned(chain)):
        a, b = _value(left), _value(right)
        if a is None or b is None:
            continue
        if not _holds(a, b, left, right):
            if doubtful:
                continue
            return False
        leads_there &= gold not in _numbers(left) - given - worked_out
        worked_out |= {b, *_numbers(right)}
    return True if leads_there and gold in worked_out else None


def _equations(text: str) -> Iterator[tuple[str, str, bool]]:
    """Both sides of each equation that is worked out on the left, without words, and whether units may explain it."""
    for line in _BREAK.split(text):
        before, *rest = _EQUALS.split(line)
        for sign, after in zip(rest[::2], rest[1::2], strict=True):
            left, right = _pieces(before)[-1], _pieces(after)[0]
            works = sign == "=" and (_SIGN.search(left.lstrip("-(")) or ("%" in right and "." in left))
            is_cut = left[:1] in "+*/^_" or (left[:1] == "-" and not before.lstrip().startswith(left))  # Tom + 5
            is_share = _SHARE.fullmatch(left) and not before.rstrip().endswith(left)  # 3/4 of the eggs
            if works and not is_cut and not is_share:
                units = {found.group().split()[-1].lower().rstrip("s") for found in _UNIT.finditer(before)}
                yield left, right, (len(units) > 1 or "%" in left) and not re.search(r"[*/]", left)
            before = after


def _pieces(side: str) -> list[str]:
    """The parts of a side between its words; a unit is not one."""
    pieces = re.split(_WORD, _UNIT.sub(" ", _UNKNOWN.sub("?", side)))
    return [piece.strip() for piece in pieces if piece.strip()] or [""]


def _cleaned(text: str) -> str:
    for pattern, instead in _REWRITTEN:
        text = pattern.sub(instead, text)
    return text


def _numbers(text: str) -> set[Fraction]:
    return {Fraction(number) for number in _NUMBER.findall(text)}


def _value(text: str) -> Fraction | None:
    try:
        return exact_value(parse(text))
    except (NotUnderstood, NotRational, ZeroDivisionError):
        return None


def _holds(a: Fraction, b: Fraction, left: str, right: str) -> bool:
    """Compare both sides: a quotient may be rounded or cut, other decimals rounded, and per cent be written as such."""
    unit = Fraction(1, 10 ** len(right.partition(".")[2].rstrip("%) ")))
    exact = a.denominator == 1 or "/" in right or "frac" in right
    room = 0 if exact else unit if "/" in left or "frac" in left else unit / 2
    if "%" in right:
        return any(x == 100 * b or abs(x - 100 * b) < room for x in (a, 100 * a))
    return abs(a - b) <= room or (100 * a == b and "100%" in left)
