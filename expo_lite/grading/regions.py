"""Parts of the real line, however they are written: intervals, inequalities, unions, points taken out."""

import itertools
import re
from dataclasses import dataclass

from expo_lite.grading.structures import Leaf, Relation, Sequence, split_top, structure

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


def membership(text: str) -> tuple[str | None, str]:
    r"""Name and set of "x \in S"; the text itself where there is no such name."""
    match = _MEMBER.match(text)
    return (match.group(1), match.group(2).strip()) if match else (None, text)


def region(text: str) -> Region | None:
    """The part of the real line that a normalised answer describes, if it describes one."""
    builder = _BUILDER.match(text)
    if builder is not None:
        inner = region(builder.group("condition").strip())
        return inner if inner is None or inner.name == builder.group("name") else None
    name, rest = membership(text)
    if name is not None:
        inner = region(rest)
        return None if inner is None else Region(inner.pieces, name)
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
    """The real line without some points."""
    match = re.match(r"^(?:\\R|\(-\\infty, ?\+?\\infty\))\s?(?:\\setminus|-)\s?\\\{(.+)\\\}$", text)
    if match is None:
        match = re.match(r"^\\text\{all real numbers? except\}? ?\{?(.+?)\}?$", text) or re.match(
            r"^(?:all )?real numbers? except (?:for )?(?:[a-z] ?= ?)?(.+)$", text
        )
    if match is None:
        return None
    inner = structure(match.group(1))
    points = inner.items if isinstance(inner, Sequence) else (match.group(1),)
    return _without(tuple(points))


def _without(points: tuple[str, ...]) -> Region:
    ends = (_MINUS_INFINITY, *sorted(points, key=_rough_value), _INFINITY)
    return Region(tuple(Piece(low, False, high, False) for low, high in itertools.pairwise(ends)))


def _rough_value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _simple(text: str) -> Region | None:
    form = structure(text)
    if isinstance(form, Leaf) and form.text in (r"\R", r"\R "):
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
    inner = [region(item) for item in form.items]
    pieces = [piece for part in inner if part is not None for piece in part.pieces]
    names = {part.name for part in inner if part is not None}
    if any(part is None or not part.certain for part in inner) or len(names) > 1 or len(inner) > 8 or None in names:
        return None
    name = names.pop()
    if form.link != "or" and len(pieces) == 2:
        one, two = pieces if pieces[0].high == _INFINITY else pieces[::-1]
        # Without "or", a bound from below and one from above leave the part between them, if it is not empty.
        if one.high == _INFINITY and two.low == _MINUS_INFINITY and _rough_value(one.low) < _rough_value(two.high):
            return Region((Piece(one.low, one.low_closed, two.high, two.high_closed),), name)
    if form.link == "and":
        return None
    return Region(tuple(pieces), name)


def _inequality(form: Relation) -> Region | None:
    sides, signs = form.sides, form.signs
    if "=" in signs:
        return None
    if len(sides) == 2:
        if _VARIABLE.match(sides[1]) and not _VARIABLE.match(sides[0]):
            sides, signs = sides[::-1], (_FLIPPED.get(signs[0], signs[0]),)
        name, bound, sign = sides[0], sides[1], signs[0]
        if not _VARIABLE.match(name) or name in re.findall(r"\\?[A-Za-z]+", bound):
            return None
        if sign == r"\ne":
            return Region(_without((bound,)).pieces, name)
        if sign in ("<", r"\le"):
            return Region((Piece(_MINUS_INFINITY, False, bound, sign == r"\le"),), name)
        return Region((Piece(bound, sign == r"\ge", _INFINITY, False),), name)
    if len(sides) == 3 and r"\ne" not in signs and _VARIABLE.match(sides[1]):
        if signs[0] in (">", r"\ge"):
            sides, signs = sides[::-1], (_FLIPPED[signs[1]], _FLIPPED[signs[0]])
        if signs[0] in ("<", r"\le") and signs[1] in ("<", r"\le"):
            return Region((Piece(sides[0], signs[0] == r"\le", sides[2], signs[1] == r"\le"),), sides[1])
    return None
