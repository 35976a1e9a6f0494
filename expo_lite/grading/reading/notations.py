"""Answers whose form says what they are: yes or no, nothing, times, dates, numbers in a base, ratios."""

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from expo_lite.grading.comparing.leaves import Outcome, quantity
from expo_lite.grading.reading import words

_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip
_IN_BASE = re.compile(
    r"^\(?(?:\\text\{)?(?P<digits>-?[0-9A-Fa-f ]+(?:\.[0-9A-F]+)?)\}?\)?"
    r"(?:_ ?\{? ?(?:\\text\{ ?)?\(?(?P<low>\d{1,2}|[a-z]+)\)?(?: ?\})*"
    r"| ?\(?(?:\\text\{ ?\(?)?(?:in )?base[ -]?(?:\})? ?(?:\{)?(?P<word>\d{1,2}|[a-z]+)\)?\}?\)?)$"
)
_RATIO = re.compile(r"^(?:\d+(?:\.\d+)?)(?: ?: ?\d+(?:\.\d+)?)+$")

Result = tuple[Outcome, str]


def compare_notations(gold: str, answer: str) -> Result | None:
    """Compare two normalised answers of one of these forms; None where they are of none."""
    for how, (read, same) in _READERS.items():
        wanted, given = read(gold), read(answer)
        if wanted is not None and given is not None:
            return (Outcome.EQUAL if same(wanted, given) else Outcome.DIFFERENT), how
    return _bases(gold, answer) or _ratios(gold, answer)


_READERS: dict[str, tuple[Callable[[str], Any], Callable[[Any, Any], bool]]] = {
    "yes_no": (words.yes_no, operator.eq),
    "named_answer": (words.nothing, operator.eq),
    "time": (words.time_of_day, words.same_time),
    "date": (words.date, words.same_date),
}
"""What reads an answer of each form, and whether two such answers are the same."""


def number_in_base(text: str) -> tuple[str, int] | None:
    r"""Digits (no leading zeros) and base of 204_5, 204_{\text{five}} or 204 (base 5)."""
    match = _IN_BASE.match(re.sub(r"(?<=[0-9A-F])\\text\{ ?([A-F]+) ?\}", r"\1", text))
    if match is None:
        return None
    base = match.group("low") or match.group("word")
    number = _BASES.get(base) if base.isalpha() else int(base)
    digits = match.group("digits").replace(" ", "").upper()
    if number is None or not 2 <= number <= 36:
        return None
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return sign + (digits.lstrip("0") or "0"), number


def _bases(gold: str, answer: str) -> Result | None:
    """Numbers in the same base with the same digits; a bare number is in base ten."""
    wanted, given = number_in_base(gold), number_in_base(answer)
    if wanted is None and given is None:
        return None
    if wanted is None or given is None:
        digits, base = wanted or given or ("", 0)
        plain = answer if wanted is not None else gold
        if base != 10:
            return Outcome.DIFFERENT, "base"
        equal = quantity(plain).value == quantity(digits).value
        return (Outcome.EQUAL if equal else Outcome.DIFFERENT), "base"
    return (Outcome.EQUAL if wanted == given else Outcome.DIFFERENT), "base"


def _ratio(text: str) -> tuple[Fraction, ...] | None:
    return tuple(Fraction(part.strip()) for part in text.split(":")) if _RATIO.match(text) else None


def _in_lowest_terms(ratio: tuple[Fraction, ...]) -> bool:
    """Whether a ratio is reduced, as a reference is that means one; 12:30 is a time."""
    return all(part.denominator == 1 for part in ratio) and math.gcd(*(part.numerator for part in ratio)) == 1


def _ratios(gold: str, answer: str) -> Result | None:
    texts = [re.sub(r" ?\\text\{ ?(?:to|is to) ?\} ?|(?<=\d) to (?=\d)", ":", text) for text in (gold, answer)]
    wanted, given = _ratio(texts[0]), _ratio(texts[1])
    if wanted is None and given is None:
        return None
    if wanted is not None and given is not None:
        if len(wanted) != len(given):
            return Outcome.DIFFERENT, "ratio"
        if words.time_of_day(gold) is not None and not _in_lowest_terms(wanted):
            return Outcome.DIFFERENT, "time"
        equal = all(a * given[0] == b * wanted[0] for a, b in zip(wanted, given, strict=True))
        return (Outcome.EQUAL if equal and any(wanted) and any(given) else Outcome.DIFFERENT), "ratio"
    ratio, text = (wanted, texts[1]) if wanted is not None else (given, texts[0])
    value = quantity(text).value
    if ratio is None or value is None:
        return None
    # 7:30 may be a time of day.
    timely = wanted is not None and words.time_of_day(gold) is not None
    equal = not timely and len(ratio) == 2 and ratio[1] not in (0, 1) and ratio[0] / ratio[1] == value
    return (Outcome.EQUAL if equal else Outcome.DIFFERENT), "ratio"
