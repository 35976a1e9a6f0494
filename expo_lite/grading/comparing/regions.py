"""Parts of the real line, however they are written: intervals, inequalities, unions, points taken out."""

import math
import re
from dataclasses import dataclass

from expo_lite.grading.comparing import Result, Scope, words
from expo_lite.grading.comparing.expression import NotUnderstood, parse
from expo_lite.grading.comparing.leaves import NotRational, exact_value
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
    """The real line, or an interval, without some points."""
    sides, found = split_top(text, frozenset((r"\setminus",)))
    if len(found) == 1 and sides[0] and sides[1].startswith(r"\{"):
        points = structure(sides[1])
        return _with_holes(region(sides[0]), points.items) if isinstance(points, Sequence) else None
    if len(found) == 1 and sides[0] == r"\R" and sides[1][:1] in ("(", "["):
        return _outside(region(sides[1]))
    return None


def _outside(taken: Region | None) -> Region | None:
    """The real line without one finite interval."""
    if taken is None or len(taken.pieces) != 1 or _INFINITY in taken.pieces[0].low + taken.pieces[0].high:
        return None
    piece = taken.pieces[0]
    left = Piece(_MINUS_INFINITY, False, piece.low, not piece.low_closed)
    return Region((left, Piece(piece.high, not piece.high_closed, _INFINITY, False)))


def _rough_value(text: str) -> float:
    if text.lstrip("+-") == _INFINITY:
        return -math.inf if text.startswith("-") else math.inf
    try:
        return float(exact_value(parse(text)))
    except (NotUnderstood, NotRational, ArithmeticError):
        return 0.0


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
    """Inequalities side by side: a union with "or", a section where one bounds from below and one from above."""
    holes = [item for item in form.items if r"\ne" in item]
    if holes and len(holes) < len(form.items) and form.link != "or":
        kept = Sequence("", "", tuple(item for item in form.items if item not in holes), form.link)
        solid = _several(kept) if len(kept.items) > 1 else region(kept.items[0])
        sides = [split_top(hole, frozenset((r"\ne",)))[0] for hole in holes]
        if solid is None or any(len(pair) != 2 or pair[0] != solid.name for pair in sides):
            return None
        return _with_holes(solid, tuple(pair[1] for pair in sides))
    inner = [region(item) for item in form.items]
    pieces = [piece for part in inner if part is not None for piece in part.pieces]
    names = {part.name for part in inner if part is not None}
    if any(part is None or not part.certain for part in inner) or len(names - {None}) > 1 or len(inner) > 8:
        return None
    if None in names and form.link != "or":
        return None
    name = next(iter(names - {None}), None)
    if form.link != "or" and len(pieces) == 2:
        one, two = pieces if pieces[0].high == _INFINITY else pieces[::-1]
        # Without "or", a bound from below and one from above leave the part between them, if it is not empty.
        if one.high == _INFINITY and two.low == _MINUS_INFINITY and _rough_value(one.low) < _rough_value(two.high):
            return Region((Piece(one.low, one.low_closed, two.high, two.high_closed),), name)
    if form.link == "and":
        return None
    return Region(tuple(pieces), name)


def _with_holes(solid: Region | None, points: tuple[str, ...]) -> Region | None:
    """A region without some points, if each lies in it for all that can be seen."""
    for point in points:
        if solid is None:
            return None
        pieces: list[Piece] = []
        for piece in solid.pieces:
            if _rough_value(piece.low) < _rough_value(point) < _rough_value(piece.high):
                pieces.append(Piece(piece.low, piece.low_closed, point, False))
                pieces.append(Piece(point, False, piece.high, piece.high_closed))
            else:
                pieces.append(piece)
        if len(pieces) == len(solid.pieces):
            return None
        solid = Region(tuple(pieces), solid.name)
    return solid


def _inequality(form: Relation) -> Region | None:
    sides, signs = form.sides, form.signs
    if len(sides) == 2:
        if _VARIABLE.match(sides[1]) and not _VARIABLE.match(sides[0]):
            sides, signs = sides[::-1], (_FLIPPED.get(signs[0], signs[0]),)
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
