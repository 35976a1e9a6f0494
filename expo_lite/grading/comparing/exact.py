"""Exact values of trees: rationals only, and never one too long to write down."""

import math
from fractions import Fraction

from expo_lite.grading.comparing.expression import Tree

_MAX_BITS = 20_000
_MAX_FACTORIAL = 1000


class NotRational(ValueError):
    """The tree has no rational value, or one too large to compute."""


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
    if kind == "fn":
        return _function(tree[1], [exact_value(part) for part in tree[2:]])
    raise NotRational(kind)


def linear(tree: Tree, name: str) -> tuple[Fraction, Fraction]:
    """Slope and offset of a tree that is linear in a variable; raises NotRational for any other."""
    kind = tree[0]
    if kind == "sym" and tree[1] == name:
        return Fraction(1), Fraction(0)
    if kind == "add":
        parts = [linear(part, name) for part in tree[1:]]
        return sum((slope for slope, _ in parts), Fraction(0)), sum((offset for _, offset in parts), Fraction(0))
    if kind == "mul":
        slope, offset = Fraction(0), Fraction(1)
        for part in tree[1:]:
            other_slope, other_offset = linear(part, name)
            if slope and other_slope:
                raise NotRational("not linear")
            slope, offset = slope * other_offset + offset * other_slope, _bounded(offset * other_offset)
        return slope, offset
    return Fraction(0), exact_value(tree)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > _MAX_BITS:
        raise NotRational("too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _root(_power(base, Fraction(exponent.numerator)), exponent.denominator)
    if abs(exponent) * _bits(base) > _MAX_BITS or (base == 0 and exponent <= 0):
        raise NotRational("too large or undefined")
    return Fraction(base**exponent.numerator)


def _root(value: Fraction, index: int) -> Fraction:
    """The exact root of a non-negative rational that has one."""
    if value < 0 or not 0 < index <= 64:
        raise NotRational("no real root")
    parts = []
    for whole in (value.numerator, value.denominator):
        root = math.isqrt(whole) if index == 2 else _integer_root(whole, index)
        if root**index != whole:
            raise NotRational("irrational")
        parts.append(root)
    return Fraction(parts[0], parts[1])


def _integer_root(whole: int, index: int) -> int:
    low, high = 0, 1 << (whole.bit_length() // index + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**index <= whole:
            low = middle
        else:
            high = middle - 1
    return low


def _function(name: str, values: list[Fraction]) -> Fraction:
    if name == "abs":
        return abs(values[0])
    if name == "root" and values[1].denominator == 1:
        if values[0] < 0 and values[1] % 2 == 1:
            return -_root(-values[0], values[1].numerator)
        return _root(values[0], values[1].numerator)
    if name in ("floor", "ceil") and len(values) == 1:
        return Fraction(math.floor(values[0]) if name == "floor" else math.ceil(values[0]))
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if any(value.denominator != 1 or value < 0 or value > _MAX_FACTORIAL for value in values):
        raise NotRational(name)
    integers = [value.numerator for value in values]
    if name == "factorial":
        return Fraction(math.factorial(integers[0]))
    if name == "binom":
        return Fraction(math.comb(integers[0], integers[1]))
    if name in ("gcd", "lcm"):
        return Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))
    raise NotRational(name)
