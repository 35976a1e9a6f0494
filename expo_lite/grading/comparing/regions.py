"""Parts of the real line, however they are written: intervals, inequalities, unions, points taken out."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, reduce
from itertools import product

from expo_lite.grading.comparing import Result, Scope, words
from expo_lite.grading.comparing.expression import NotUnderstood, parse
from expo_lite.grading.comparing.lists import Leaf, Relation, Sequence, paired_off, split_top, structure

_VARIABLE = re.compile(r"^(?:[A-DF-Za-df-hj-z]|\\(?!pi|infty)[a-z]+|[A-Za-z]\((?:[a-z]|\\[a-z]+)\))(?:_\{?\w+\}?)?$")
_MEMBER = re.compile(r"^((?:\\?[A-Za-z]|\\[a-z]+|[A-Za-z]\([a-z]\))(?:_\{?\w+\}?)?)\s?\\in\s?(.+)$", re.DOTALL)
_BUILDER = re.compile(
    r"^\\\{\s?(?P<name>[A-Za-z])\s?(?:\\in\s?\\R\s?)?(?:\||:|\\text\{ ?such that ?\})\s?(?P<condition>.+)\\\}$",
    re.DOTALL,
)
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_MINUS_INFINITY, _INFINITY = r"-\infty", r"\infty"


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval; a point has equal closed ends."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals, left to right or as given; `name` is the variable where one is named.

    `certain` is False for a bare pair of round brackets, or a set of points, which may mean something else.
    """

    pieces: tuple[Piece, ...]
    name: str | None = None
    certain: bool = True


def compare_regions(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare two parts of the real line piece by piece, in any order."""
    wanted, given = region(gold), region(answer)
    if wanted is None or given is None or not (wanted.certain or given.certain):
        return None

    def same(one: Piece, other: Piece) -> bool:
        closed = (one.low_closed, one.high_closed) == (other.low_closed, other.high_closed)
        return closed and scope.equal(one.low, other.low) and scope.equal(one.high, other.high)

    names_fit = wanted.name == given.name or None in (wanted.name, given.name)
    equal = names_fit and len(wanted.pieces) == len(given.pieces) and paired_off(wanted.pieces, given.pieces, same)
    return (equal, "interval") if equal or names_fit else None


def region(text: str) -> Region | None:
    """The part of the real line that a normalised answer describes, if it describes one."""
    builder = _BUILDER.match(text)
    if builder is not None:
        inner = region(builder.group("condition").strip())
        return inner if inner is None or inner.name == builder.group("name") else None
    member = _MEMBER.match(text)
    if member is not None:
        inner = region(member.group(2).strip())
        return None if inner is None else Region(inner.pieces, member.group(1))
    return _union(text) or _difference(text) or _simple(text)


def _union(text: str) -> Region | None:
    parts, found = split_top(text, frozenset((r"\cup",)))
    if not found:
        return None
    pieces: list[Piece] = []
    for part in parts:
        inner = region(part)
        if inner is None:
            return None
        pieces.extend(inner.pieces)
    return Region(tuple(pieces))


def _difference(text: str) -> Region | None:
    """A part of the line without another one."""
    sides, found = split_top(text, frozenset((r"\setminus",)))
    solid, taken = (region(sides[0]), region(sides[1])) if len(found) == 1 else (None, None)
    return reduce(_section, map(_outside, taken.pieces), solid) if taken is not None else None


def _outside(piece: Piece) -> Region:
    """The real line without an interval or a point."""
    below = Piece(_MINUS_INFINITY, False, piece.low, not piece.low_closed)
    return Region((below, Piece(piece.high, not piece.high_closed, _INFINITY, False)))


def _section(one: Region | None, other: Region | None) -> Region | None:
    """The part that lies in both; None if there is none, or if the order of the ends is not known."""
    if one is None or other is None:
        return None
    pieces = []
    try:
        for a, b in product(one.pieces, other.pieces):
            start, low_open, low = max((_end(each.low), not each.low_closed, each.low) for each in (a, b))
            stop, high_closed, high = min((_end(each.high), each.high_closed, each.high) for each in (a, b))
            if start < stop or (start == stop and high_closed and not low_open):
                pieces.append(Piece(low, not low_open, high, high_closed))
    except NotUnderstood:
        return None
    return Region(tuple(pieces), one.name or other.name) if pieces else None


@lru_cache(maxsize=256)
def _end(text: str) -> Fraction | float:
    """The value of an end; raises NotUnderstood where it is not known."""
    from expo_lite.grading.comparing import values  # late, as in compare_expressions

    if text.lstrip("+-") == _INFINITY:
        return -math.inf if text.startswith("-") else math.inf
    value = values.constant(parse(text))
    if value is None:
        raise NotUnderstood(text)
    return value


def _simple(text: str) -> Region | None:
    form = structure(text)
    if isinstance(form, Leaf) and words.nothing(form.text) == r"\R":
        return Region((Piece(_MINUS_INFINITY, False, _INFINITY, False),))
    if isinstance(form, Relation):
        return _inequality(form)
    if not isinstance(form, Sequence):
        return None
    if form.opening == "":
        return _several(form)
    if form.opening == r"\{":
        return Region(tuple(Piece(point, True, point, True) for point in form.items), certain=False)
    if len(form.items) == 2 and form.opening in "([]" and form.closing in ")][":
        low, high = form.items
        certain = form.opening + form.closing not in ("()", "[]") or _INFINITY in low + high
        return Region((Piece(low, form.opening == "[", high, form.closing == "]"),), certain=certain)
    return None


def _several(form: Sequence) -> Region | None:
    """Inequalities side by side: all hold, if they can, unless "or" stands between them."""
    parts = [part for part in map(region, form.items) if part is not None and part.certain]
    names = {part.name for part in parts}
    if len(parts) < len(form.items) or len(names - {None}) > 1 or len(parts) > 8:
        return None
    if None in names and form.link != "or":
        return None
    both: Region | None = None if form.link == "or" else parts[0]
    for part in parts[1:]:
        both = _section(both, part)
    if both is not None or form.link == "and":
        return both
    return Region(tuple(piece for part in parts for piece in part.pieces), next(iter(names - {None}), None))


def _inequality(form: Relation) -> Region | None:
    sides, signs = form.sides, form.signs
    if len(sides) == 2:
        return _bounded_once(sides[0], signs[0], sides[1])
    if len(sides) != 3 or not _VARIABLE.match(sides[1]):
        return None
    if signs[0] in (">", r"\ge") and signs[1] in _FLIPPED:
        sides, signs = sides[::-1], (_FLIPPED[signs[1]], _FLIPPED[signs[0]])
    if not set(signs) <= {"<", r"\le"}:
        return None
    return Region((Piece(sides[0], signs[0] == r"\le", sides[2], signs[1] == r"\le"),), sides[1])


def _bounded_once(name: str, sign: str, bound: str) -> Region | None:
    """Read an inequality between a variable and one bound."""
    if not _VARIABLE.match(name) or sign == "=" or name in re.findall(r"\\?[A-Za-z]+", bound):
        return None
    if sign == r"\ne":
        return Region((Piece(_MINUS_INFINITY, False, bound, False), Piece(bound, False, _INFINITY, False)), name)
    if sign in ("<", r"\le"):
        return Region((Piece(_MINUS_INFINITY, False, bound, sign == r"\le"),), name)
    return Region((Piece(bound, sign == r"\ge", _INFINITY, False),), name)
