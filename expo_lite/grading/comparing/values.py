"""Equality of expressions, by evaluating both to many digits.

Expressions with variables are compared at fixed points of several ranges. Two different expressions of the length that
people write agree at all of them with negligible probability, while simplifying with sympy misses many equal ones. Only
workers use this: a power tower can take for ever.
"""

import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from expo_lite.grading.comparing.expression import Tree

_DIGITS = 200
_RANGES = [(1.0, 3.0)] * 4 + [(0.05, 0.95)] * 4 + [(-2.0, 2.0)] * 5 + [(5.0, 20.0)] * 3
_ENOUGH = 3
_MAX_EXPONENT = 10**7
_OF_ANY_SIZE = frozenset(("abs", "ln", "log", "root"))


class Undefined(ValueError):
    """The expression has no value here, or none that can be computed."""


_PLAIN: dict[str, Callable[..., Any]] = {
    name: getattr(mpmath, function)
    for name, function in {
        "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "arcsin": "asin",
        "arccos": "acos", "arctan": "atan", "arccot": "acot", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh",
        "coth": "coth", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "abs": "fabs", "sgn": "sign",
    }.items()
}  # fmt: skip


def symbols(tree: Tree) -> frozenset[str]:
    """The names of the variables in a tree."""
    return frozenset(name for kind, name, *_ in _nodes(tree) if kind == "sym" and name not in ("pi", "e", "i", "oo"))


def _nodes(tree: Tree) -> Iterator[Tree]:
    """The tree and all trees in it."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from _nodes(part)


def same(one: Tree, other: Tree) -> bool:
    """Compare two expressions wherever both have values, at three points or more."""
    names = sorted(symbols(one) | symbols(other))
    if not names:
        return _same_constant(one, other)
    checked = 0
    bars = [any(node[1] == "abs" for node in _nodes(tree)) for tree in (one, other)]
    with mp.workdps(_DIGITS):
        for point in _points(names):
            a, b = _value_or_none(one, point), _value_or_none(other, point)
            if a is None or b is None:
                # |x| says that negative x are meant: ln|x| is not ln x.
                if bars[0] != bars[1] and (a is None) != (b is None):
                    return False
                continue
            if not _agree(one, other, point, a, b):
                return False
            checked += 1
    return checked >= _ENOUGH


def proportional(one: Tree, other: Tree, *, positive: bool = False) -> bool:
    """Check that one expression is a constant multiple of the other, not zero (above zero if `positive`)."""
    names = sorted(symbols(one) | symbols(other))
    if not names or symbols(one) != symbols(other):
        return False
    ratios = []
    with mp.workdps(_DIGITS):
        for point in _points(names):
            a, b = _value_or_none(one, point), _value_or_none(other, point)
            if a is not None and b is not None and mp.isfinite(a) and mp.isfinite(b):
                if a == 0 or b == 0:
                    if a != b:
                        return False
                    continue
                ratios.append(a / b)
        if len(ratios) < _ENOUGH:
            return False
        first = ratios[0]
        if abs(first) < mp.mpf(10) ** -20 or abs(first) > mp.mpf(10) ** 20 or (positive and not mp.re(first) > 0):
            return False
        return all(abs(ratio - first) <= mp.mpf(10) ** -30 * abs(first) for ratio in ratios)


def constant(tree: Tree) -> Fraction | None:
    """The value of a real constant as a fraction, to 60 digits; None for anything else."""
    with mp.workdps(_DIGITS):
        value = _value_or_none(tree, None)
        is_real = isinstance(value, mp.mpf) and mp.isfinite(value)
        return Fraction(mp.nstr(value, 60, min_fixed=-500, max_fixed=500)) if is_real else None


def _same_constant(one: Tree, other: Tree) -> bool:
    with mp.workdps(_DIGITS):
        a, b = _value_or_none(one, None), _value_or_none(other, None)
    # What is undefined or too large to compute equals nothing but its own text.
    return a is not None and b is not None and _agree(one, other, None, a, b)


def _agree(one: Tree, other: Tree, point: dict[str, Any] | None, a: Any, b: Any) -> bool:
    """Compare two values to all digits but the last 30, then again with twice the digits, where the gap must shrink."""
    if not (mp.isfinite(a) and mp.isfinite(b)):
        return False
    with mp.workdps(_DIGITS):
        gap, size = abs(a - b), max(abs(a), abs(b))
        if gap > mp.mpf(10) ** (30 - _DIGITS) * max(size, 1):
            return False
    with mp.workdps(2 * _DIGITS):
        a, b = _value_or_none(one, point), _value_or_none(other, point)
        gap = (gap or mp.mpf(10) ** -_DIGITS * size) * mp.mpf(10) ** (-_DIGITS // 3)
        return a is not None and b is not None and bool(abs(a - b) <= gap)


def _points(names: list[str]) -> list[dict[str, Any]]:
    points = []
    for number, (low, high) in enumerate(_RANGES):
        points.append({name: mp.mpf(_draw(name, number).uniform(low, high)) for name in names})
    # Whole numbers too: (-1)^n has no real value between them.
    for number in range(8):
        points.append({name: mp.mpf(_draw(name, 100 + number).randint(0, 4) * 2 + 3 + number % 2) for name in names})
    return points


def _draw(name: str, number: int) -> random.Random:
    return random.Random(f"{name}/{number}")  # noqa: S311 - fixed test points


def _value_or_none(tree: Tree, point: dict[str, Any] | None) -> Any:
    try:
        return _value(tree, point)
    except (ArithmeticError, ValueError, TypeError):
        return None


def _value(tree: Tree, point: dict[str, Any] | None) -> Any:
    """The value at a point; without one (constants) roots and logarithms may be complex."""
    kind = tree[0]
    if kind == "num":
        return mp.mpf(tree[1].numerator) / tree[1].denominator
    if kind == "sym":
        return _symbol(tree[1], point)
    if kind == "add":
        return _sum(tree[1:], [_value(part, point) for part in tree[1:]])
    if kind == "mul":
        return mp.fprod([_value(part, point) for part in tree[1:]])
    if kind == "pow":
        return _power(_value(tree[1], point), _value(tree[2], point), real=point is not None)
    return _function(tree[1], [_value(part, point) for part in tree[2:]], real=point is not None)


def _sum(parts: tuple[Tree, ...], terms: list[Any]) -> Any:
    """Add terms; refuse one that is too small to make a difference.

    What rounding leaves of a function, as of the sine of pi, is not refused: it is as small as the digits are many.
    """
    largest = max(map(abs, terms))
    low, high = (largest * mp.mpf(10) ** (room - mp.dps) for room in (-20, 20))
    for part, term in zip(parts, terms, strict=True):
        is_residue = low < abs(term) < high and any(node[0] == "fn" for node in _nodes(part))
        if 0 < abs(term) < largest * mp.mpf(10) ** (-_DIGITS // 2) and not is_residue:
            raise Undefined("too small to see")
    return mp.fsum(terms)


def _symbol(name: str, point: dict[str, Any] | None) -> Any:
    constants = {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "oo": mp.inf}
    if name in constants:
        return constants[name]
    if point is None:
        raise Undefined(name)
    return point[name]


def _power(base: Any, exponent: Any, *, real: bool) -> Any:
    if isinstance(base, mp.mpf) and isinstance(exponent, mp.mpf):
        if base == 0 and exponent <= 0:
            raise Undefined("0^0")
        if base < 0 and exponent != mp.floor(exponent) and real:
            raise Undefined("root of a negative number")
        if base > 0 and mp.isfinite(exponent) and abs(exponent * mp.log(base)) > _MAX_EXPONENT:
            raise Undefined("too large")
    if abs(exponent) > _MAX_EXPONENT and mp.isfinite(exponent):
        raise Undefined("too large")
    return mp.power(base, exponent)


def _function(name: str, values: list[Any], *, real: bool) -> Any:
    first = values[0]
    if name not in _OF_ANY_SIZE and mp.isfinite(first) and abs(first) > mp.mpf(10) ** 30:
        raise Undefined("too large")
    if name == "root":
        return _root(first, values[1], real=real)
    if name in ("ln", "log"):
        if real and (not isinstance(first, mp.mpf) or first <= 0):
            raise Undefined("logarithm of a negative number")
        base = mp.e if name == "ln" else values[1] if len(values) > 1 else mp.mpf(10)
        return mp.log(first) if name == "ln" else mp.log(first) / mp.log(base)
    if name == "exp":
        return _power(+mp.e, first, real=False)
    if name in _PLAIN and len(values) == 1:
        value = _PLAIN[name](first)
        if real and isinstance(value, mp.mpc) and isinstance(first, mp.mpf):
            raise Undefined(name)
        return value
    if name == "unknown":
        # Some function nobody would write: equal arguments give equal values and others do not.
        return mp.cos(first * mp.sqrt(7)) * values[1] + (first + 1) * values[1] ** 2
    return _whole_number_function(name, values)


def _root(value: Any, index: Any, *, real: bool) -> Any:
    if index == 0:
        raise Undefined("zeroth root")
    if isinstance(value, mp.mpf) and value < 0:
        if index == mp.floor(index) and int(index) % 2 == 1:
            return -mp.power(-value, 1 / index)
        if real:
            raise Undefined("root of a negative number")
    return mp.sqrt(value) if index == 2 else mp.power(value, 1 / index)


def _whole_number_function(name: str, values: list[Any]) -> Any:
    if any(not isinstance(value, mp.mpf) or abs(value) > 10**5 for value in values):
        raise Undefined(name)
    if name == "factorial":
        return mp.factorial(values[0])
    if name == "binom":
        return mp.binomial(values[0], values[1])
    raise Undefined(name)
