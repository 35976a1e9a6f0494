"""Single expressions: words, numbers with units, values."""

import functools
import math
import re
from dataclasses import dataclass
from fractions import Fraction

from expo_lite.grading.comparing import Result, Scope
from expo_lite.grading.comparing.expression import NotUnderstood, Tree, parse
from expo_lite.grading.reading.normalise import text_key
from expo_lite.grading.reading.units import Unit, in_one_unit, split_unit

_DECIMAL = re.compile(
    r"^[+-]?(?P<whole>\d{0,60})(?:\.(?P<places>\d{1,60}))?"
    r"(?:(?: ?(?:\\times|\\cdot|\*|x) ?10\^ ?(?:\{ ?(?P<braced>[+-]?\d{1,4}) ?\}|(?P<bare>[+-]?\d{1,4})))"
    r"|[eE](?P<power>[+-]?\d{1,4}))?$"
)
_WORD = re.compile(r"^(?!(?:sqrt|sin|cos|tan|log|ln|exp)[a-z]|[b-df-hj-np-tv-xz]+$)[A-Za-z]{3,}$")  # mgh is a product
_WORDS = re.compile(r"(?:\\text\{)? ?[A-Za-z][A-Za-z' -]{2,}\}?")
_ROUGHLY = re.compile(
    r"^(?:\\text\{ ?)?(?:approximately|approx\.?|about|roughly|around|nearly|exactly|only)(?: ?\}| ) ?"
    r"|^(?:\\approx|\\sim|~|=) ?"
)
_MAX_BITS = 20_000
_ROUNDED_DIGITS = 3
_DEGREES, _RADIANS = (("angle", 1),), (("radian", 1),)


class NotRational(ValueError):
    """The tree has no rational value, or one too large to compute."""


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


@functools.lru_cache(maxsize=256)
def quantity(text: str) -> Quantity:
    """Read a normalised expression."""
    text = _ROUGHLY.sub("", text).strip()
    core, unit = split_unit(text)
    if unit.dimensions == (("angle", 1),) and re.search(r"\\?(?:sin|cos|tan|cot|sec|csc)", core):
        core, unit = text, Unit()
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


def compare_compounds(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare quantities in several units: 2 hours 30 minutes is 150 minutes, and 2.5 hours."""
    wanted, given = in_one_unit(gold), in_one_unit(answer)
    return None if (wanted, given) == (gold, answer) else (scope.equal(wanted, given), "compound")


def compare_words(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare words as text."""
    one, other = quantity(gold), quantity(answer)
    if one.tree is not None and other.tree is not None and not _WORD.match(gold) and not _WORD.match(answer):
        return None
    if all(_WORDS.fullmatch(text) for text in (gold, answer)) and re.search("[a-z]", gold):
        return text_key(gold).casefold() == text_key(answer).casefold(), "words"
    return False, "text"


def compare_units(gold: str, answer: str, scope: Scope) -> Result | None:
    """Refuse numbers of different kinds of units; one side may leave its unit out."""
    one, other = quantity(gold), quantity(answer)
    return None if one.unit.fits(other.unit) or _in_radians(one, other) else (False, "unit")


def compare_numbers(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare rational numbers exactly, in the same unit."""
    one, other = quantity(gold), quantity(answer)
    if one.value is None or other.value is None or _in_radians(one, other):
        return None
    if any(one.value * factor == other.value * other_factor for factor, other_factor in _readings(one, other)):
        return True, "number"
    return (True, "rounded") if scope.rounding == "gold" and _gold_is_rounded(one, other) else (False, "number")


def compare_expressions(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare by value: constants to 150 digits, expressions with variables at fixed points."""
    from expo_lite.grading.comparing import values  # late: mpmath takes a while to import, and only workers get here

    one, other = quantity(gold), quantity(answer)
    if one.tree is None or other.tree is None:
        return None
    angles = _in_radians(one, other)
    trees = angles or [(one.tree, other.tree)]
    if not angles and one.unit != other.unit:
        trees = [
            (("mul", ("num", factor), one.tree), ("mul", ("num", other_factor), other.tree))
            for factor, other_factor in _factors(one.unit, other.unit)
        ]
    if any(values.same(mine, yours) for mine, yours in trees):
        return True, "radians" if angles else "expression"
    if scope.rounding == "gold" and other.value is None and one.unit.fits(other.unit):
        value = values.constant(other.tree)
        if value is not None and _rounds_to(one, value * other.unit.factor / one.unit.factor, None):
            return True, "rounded"
    return False, "expression"


def _factors(one: Unit, other: Unit) -> list[tuple[Fraction, Fraction]]:
    """Factors that bring both numbers to one unit, for each reading of the units."""
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
    if one.unit.percent == other.unit.percent:
        return readings
    bare, rate = (other, one) if one.unit.percent else (one, other)
    if bare.value is not None and bare.value.denominator == 1:
        return readings[:1]  # 28 may stand for 28%, and 100% is not 1
    if any(side.value is not None and abs(side.value) < 1 for side in (bare, rate)):
        return readings[1:]  # 0.2 is a fifth and not 0.2%
    return readings


def _gold_is_rounded(gold: Quantity, answer: Quantity) -> bool:
    """Check that the gold is the answer, rounded to the gold's last place."""
    if answer.value is None:
        return False
    return any(
        _rounds_to(gold, answer.value * theirs / ours, None if answer.place is None else answer.place * theirs / ours)
        for ours, theirs in _readings(gold, answer)
    )


def _rounds_to(decimal: Quantity, value: Fraction, place: Fraction | None) -> bool:
    """Check that a decimal of enough digits is a value, known more exactly, rounded at its last place."""
    if decimal.place is None or decimal.value is None or decimal.digits < _ROUNDED_DIGITS:
        return False
    if place is not None and place >= decimal.place:
        return False
    return 2 * abs(decimal.value - value) <= decimal.place


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


# Exact values


def exact_value(tree: Tree) -> Fraction:
    """The rational value of a tree; raises NotRational where it has none, or none that is cheap."""
    kind = tree[0]
    if kind == "num":
        value: Fraction = tree[1]
        return value
    if kind == "add":
        return _bounded(sum((exact_value(part) for part in tree[1:]), Fraction(0)))
    if kind == "mul":
        product = Fraction(1)
        for part in tree[1:]:
            product = _bounded(product * exact_value(part))
        return product
    if kind == "pow":
        return _power(exact_value(tree[1]), exact_value(tree[2]))
    if tree[:2] == ("fn", "root"):
        return _power(exact_value(tree[2]), 1 / exact_value(tree[3]))
    raise NotRational(kind)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > _MAX_BITS:
        raise NotRational("too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 2:
        return _square_root(_power(base, Fraction(exponent.numerator)))
    if abs(exponent) * _bits(base) > _MAX_BITS or (base == 0 and exponent <= 0) or exponent.denominator != 1:
        raise NotRational("too large or undefined")
    return Fraction(base**exponent.numerator)


def _square_root(value: Fraction) -> Fraction:
    """The exact root of a rational that has one; other roots are compared as expressions."""
    if value < 0:
        raise NotRational("no real root")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root**2 != value:
        raise NotRational("irrational")
    return root
