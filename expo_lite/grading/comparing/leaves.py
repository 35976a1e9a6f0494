"""Whether two single expressions are equal: text, numbers with units, then (in a worker) values."""

import re
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Protocol

from expo_lite.grading.comparing.exact import NotRational, exact_value
from expo_lite.grading.comparing.expression import Tree, parse
from expo_lite.grading.reading.normalise import text_key
from expo_lite.grading.reading.tokens import NotUnderstood
from expo_lite.grading.reading.units import Unit, split_unit
from expo_lite.settings.groups import Rounding

_DECIMAL = re.compile(
    r"^[+-]?(?P<whole>\d{0,60})(?:\.(?P<places>\d{1,60}))?"
    r"(?:(?: ?(?:\\times|\\cdot|\*|x) ?10\^ ?(?:\{ ?(?P<braced>[+-]?\d{1,4}) ?\}|(?P<bare>[+-]?\d{1,4})))"
    r"|[eE](?P<power>[+-]?\d{1,4}))?$"
)
_POUNDS = re.compile(r"(?:\\text\{ ?)?\bpounds?(?: sterling)?(?: ?\})?$")
_DECIMAL_COMMA = re.compile(r"^[+-]?(?:\d+,(?:\d\d|\d{4,})|0,\d{2,})$")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|\\text\{")
_WORD = re.compile(r"^(?!(?:sqrt|sin|cos|tan|log|ln|exp)[a-z]|\d)[A-Za-z]{3,}$")
_WORDS = re.compile(r"(?:\\text\{)? ?[A-Za-z][A-Za-z' -]{2,}\}?")
_NOUN = re.compile(
    r"(?<=[a-z]{3}) ?(?:function|triangle|quadrilateral|sequence|series|curve|number)$"
)  # an even function is even
_ROUGHLY = re.compile(
    r"^(?:\\text\{ ?)?(?:approximately|approx\.?|about|roughly|around|nearly|exactly|only)(?: ?\}| ) ?"
    r"|^(?:\\approx|\\sim|~|=) ?"
)
_ROUNDED_DIGITS = 3
_DEGREES, _RADIANS = (("angle", 1),), (("radian", 1),)


class Outcome(Enum):
    """What a comparison found: equal, different, or not for it to say."""

    EQUAL = "equal"
    DIFFERENT = "different"
    OPEN = "open"


class Deep(Protocol):
    """What a worker adds: the comparison of values that are not rational."""

    def same(self, one: Tree, other: Tree) -> bool | None:
        """Whether two expressions are equal everywhere; None for cannot say."""

    def proportional(self, one: Tree, other: Tree, *, positive: bool = False) -> bool | None:
        """Whether one is a constant multiple of the other; None for cannot say."""

    def constant(self, tree: Tree) -> Fraction | None:
        """A real constant to 60 digits, or None."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a comparison may use: values that are not rational (in a worker), and the rule for rounded answers."""

    deep: Deep | None = None
    rounding: Rounding = "never"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number or expression with its unit.

    `value` is None where it is not rational, `tree` where it is no expression; `place` is the value of the last digit
    and `digits` the number of significant ones where it is a decimal.
    """

    unit: Unit
    tree: Tree | None
    value: Fraction | None
    place: Fraction | None = None
    digits: int = 0


def quantity(text: str) -> Quantity:
    """Read a normalised expression."""
    text = _ROUGHLY.sub("", text).strip()
    core, unit = split_unit(text)
    if unit.dimensions == (("angle", 1),) and re.search(r"\\?(?:sin|cos|tan|cot|sec|csc)", core):
        core, unit = text, Unit()
    ordinal = re.fullmatch(r"(\d+)(?:st|nd|rd|th)|(\d+)\^\{?(?:\\text\{)?(?:st|nd|rd|th)\}*", core)
    if ordinal is not None:
        core = ordinal.group(1) or ordinal.group(2)
    decimal = _DECIMAL.match(core)
    place, digits = None, 0
    if decimal is not None and (decimal.group("places") or decimal.group("braced") or decimal.group("bare")):
        places = decimal.group("places") or ""
        power = int(decimal.group("braced") or decimal.group("bare") or decimal.group("power") or 0)
        place = Fraction(10) ** (power - len(places)) if abs(power) < 400 else None
        digits = len((decimal.group("whole") + places).lstrip("0"))
    try:
        tree = parse(core.replace(" x 10^", r" \times 10^"))
    except NotUnderstood:
        return Quantity(unit, None, None)
    try:
        value = exact_value(tree)
    except (NotRational, ZeroDivisionError):
        return Quantity(unit, tree, None)
    return Quantity(unit, tree, value, place, digits)


def compare_leaves(gold: str, answer: str, scope: Scope) -> tuple[Outcome, str]:
    """Compare two normalised expressions."""
    if text_key(gold) == text_key(answer):
        return Outcome.EQUAL, "text"
    one, other = quantity(gold), quantity(answer)
    if one.tree is None or other.tree is None or _WORD.match(gold) or _WORD.match(answer):
        return _compare_text(gold, answer)
    angles = _in_radians(one, other)
    if not angles and not one.unit.fits(other.unit):
        return Outcome.DIFFERENT, "unit"
    if not angles and one.value is not None and other.value is not None:
        if _equal_numbers(one, other):
            return Outcome.EQUAL, "number"
        if scope.rounding == "gold" and _gold_is_rounded(one, other):
            return Outcome.EQUAL, "rounded"
        return Outcome.DIFFERENT, "number"
    if scope.deep is None:
        return Outcome.OPEN, "expression"
    return _compare_deeply(one, other, angles, scope.deep, scope.rounding)


def one_decimal_sign(gold: str, answer: str) -> tuple[str, str]:
    """A gold of 2,74 is 2.74 where the answer is a number with a point; in an answer a comma separates a list."""
    if _DECIMAL_COMMA.match(gold) and re.fullmatch(r"[+-]?\d*\.\d+", answer):
        return gold.replace(",", "."), answer
    return gold, answer


def one_currency(gold: str, answer: str) -> tuple[str, str]:
    """7 pounds is £7 where the other side says £."""
    texts = [gold, answer]
    for mine, yours in ((0, 1), (1, 0)):
        if "£" in texts[yours]:
            texts[mine] = _POUNDS.sub("£", texts[mine])
    return texts[0], texts[1]


def _compare_text(gold: str, answer: str) -> tuple[Outcome, str]:
    if all(_WORDS.fullmatch(text) for text in (gold, answer)) and re.search("[a-z]", gold):
        equal = _NOUN.sub("", text_key(gold).casefold()) == _NOUN.sub("", text_key(answer).casefold())
        return (Outcome.EQUAL if equal else Outcome.DIFFERENT), "words"
    if _PROSE.search(gold) or _PROSE.search(answer):
        return Outcome.DIFFERENT, "text"
    return Outcome.OPEN, "text"


def _factors(one: Unit, other: Unit) -> list[tuple[Fraction, Fraction]]:
    """What to multiply the two numbers by before they are compared, in each reading of the units."""
    if one.percent != other.percent:
        hundredth = Fraction(1, 100)
        rate = (hundredth, Fraction(1)) if one.percent else (Fraction(1), hundredth)
        return [(Fraction(one.scale), Fraction(other.scale)), (one.scale * rate[0], other.scale * rate[1])]
    if one.dimensions and other.dimensions:
        return [(one.scale * one.factor, other.scale * other.factor)]
    return [(Fraction(one.scale), Fraction(other.scale))]


def _readings(one: Quantity, other: Quantity) -> list[tuple[Fraction, Fraction]]:
    """The factors that both numbers can be meant with."""
    readings = _factors(one.unit, other.unit)
    if one.unit.percent != other.unit.percent and any(
        side.value is not None and abs(side.value) <= 1 for side in (one, other)
    ):
        return readings[1:]  # 28 may stand for 28%, but 0.2 is a fifth and not 0.2%
    return readings


def _equal_numbers(one: Quantity, other: Quantity) -> bool:
    if one.value is None or other.value is None:
        return False
    return any(one.value * factor == other.value * other_factor for factor, other_factor in _readings(one, other))


def _gold_is_rounded(gold: Quantity, answer: Quantity) -> bool:
    """Whether the gold is the answer, rounded to the gold's last place."""
    if answer.value is None:
        return False
    return any(
        _rounds_to(gold, answer.value * theirs / ours, None if answer.place is None else answer.place * theirs / ours)
        for ours, theirs in _readings(gold, answer)
    )


def _rounds_to(decimal: Quantity, value: Fraction, place: Fraction | None) -> bool:
    """Whether a decimal with enough digits is a value, known to a smaller place, rounded at its own last one."""
    if decimal.place is None or decimal.value is None or decimal.digits < _ROUNDED_DIGITS:
        return False
    if place is not None and place >= decimal.place:
        return False
    return 2 * abs(decimal.value - value) <= decimal.place


def approximates(decimal: str, exact: str, scope: Scope) -> bool | None:
    r"""Whether a decimal is an exact value, rounded or cut, as in "x \approx y"; None where only a worker can say."""
    one, other = quantity(decimal), quantity(exact)
    if one.value is None or one.place is None or other.tree is None:
        return False
    value = other.value
    if value is None:
        if scope.deep is None:
            return None
        value = scope.deep.constant(other.tree)
    return value is not None and abs(one.value - value) < one.place


def _compare_deeply(
    one: Quantity, other: Quantity, angles: list[tuple[Tree, Tree]], deep: Deep, rounding: Rounding
) -> tuple[Outcome, str]:
    """Compare expressions of which at least one has no rational value."""
    if one.tree is None or other.tree is None:
        return Outcome.OPEN, "expression"
    trees = angles or [(one.tree, other.tree)]
    if not angles and one.unit != other.unit:
        trees = [
            (("mul", ("num", factor), one.tree), ("mul", ("num", other_factor), other.tree))
            for factor, other_factor in _factors(one.unit, other.unit)
        ]
    unknown = False
    for mine, yours in trees:
        verdict = deep.same(mine, yours)
        if verdict:
            return Outcome.EQUAL, "radians" if angles else "expression"
        unknown = unknown or verdict is None
    if rounding == "gold" and other.value is None and one.unit.fits(other.unit):
        value = deep.constant(other.tree)
        if value is not None and _rounds_to(one, value * other.unit.factor / one.unit.factor, None):
            return Outcome.EQUAL, "rounded"
    return (Outcome.OPEN if unknown else Outcome.DIFFERENT), "expression"


def _in_radians(one: Quantity, other: Quantity) -> list[tuple[Tree, Tree]]:
    """Degrees against radians, or against a multiple of pi without a unit, as two numbers of radians; else nothing."""
    pairs: list[tuple[Tree, Tree]] = []
    degree: Tree = ("mul", ("sym", "pi"), ("num", Fraction(1, 180)))
    for a, b, swap in ((one, other, False), (other, one, True)):
        if a.unit.dimensions != _DEGREES or a.tree is None or b.tree is None:
            continue
        bare = b.unit.empty and (b.value is None or a.value is None)
        if bare or b.unit.dimensions == _RADIANS:
            in_radians: Tree = ("mul", a.tree, degree)
            pairs.append((b.tree, in_radians) if swap else (in_radians, b.tree))
    return pairs
