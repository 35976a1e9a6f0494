"""What is made of several answers, compared part by part: lists, sets, tuples, matrices, intervals.

The comparison of the parts is given; what it leaves open stays open.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from expo_lite.grading.comparing.leaves import Outcome
from expo_lite.grading.comparing.regions import Piece, Region
from expo_lite.grading.comparing.structures import Matrix, Sequence, Structure
from expo_lite.grading.reading.normalise import text_key

_MAX_ITEMS = 64

Result = tuple[Outcome, str]
Compare = Callable[[str, str], Result]
T = TypeVar("T")


def under(result: Result, how: str) -> Result:
    """The result of an inner comparison under the name of the outer one, unless that says less."""
    return result if result[1] in ("text", "none") and result[0] is Outcome.OPEN else (result[0], how)


def compare_matrices(one: Structure, other: Structure, inner: Compare) -> Result:
    """Cell by cell; a column or a row may stand for a vector, and the lines of a system for a list."""
    if isinstance(one, Matrix) and isinstance(other, Matrix):
        if "cases" in (one.kind, other.kind):
            rows = ([", ".join(row) for row in form.rows] for form in (one, other))
            return under(_match(tuple(next(rows)), tuple(next(rows)), inner), "piecewise")
        if _is_determinant(one) != _is_determinant(other):
            return Outcome.DIFFERENT, "matrix"
        if [len(row) for row in one.rows] != [len(row) for row in other.rows]:
            return Outcome.DIFFERENT, "matrix"
        cells = [tuple(cell for row in form.rows for cell in row) for form in (one, other)]
        return under(_each(cells[0], cells[1], inner), "matrix")
    matrix, rest = (one, other) if isinstance(one, Matrix) else (other, one)
    if isinstance(matrix, Matrix) and isinstance(rest, Sequence) and matrix.kind == "cases":
        if all(len(row) == 1 for row in matrix.rows):  # x = 1 above y = 2
            lines = Sequence("", "", tuple(row[0] for row in matrix.rows))
            pair = (lines, rest) if matrix is one else (rest, lines)
            return under(compare_sequences(pair[0], pair[1], inner), "system")
        return Outcome.DIFFERENT, "piecewise"
    if isinstance(matrix, Matrix) and isinstance(rest, Sequence) and rest.ordered:
        # A column or row stands for a vector.
        if len(matrix.rows) == 1 or all(len(row) == 1 for row in matrix.rows):
            cells_of_vector = tuple(cell for row in matrix.rows for cell in row)
            cells_pair = (cells_of_vector, rest.items) if matrix is one else (rest.items, cells_of_vector)
            return under(_each(*cells_pair, inner), "vector")
        return Outcome.DIFFERENT, "matrix"
    return Outcome.OPEN, "none"


def _is_determinant(matrix: Matrix) -> bool:
    return matrix.kind in ("vmatrix", "Vmatrix")


def compare_sequences(one: Sequence, other: Sequence, inner: Compare) -> Result:
    """In order where there are brackets, as sets or lists where there are none or braces."""
    if len(one.items) != len(other.items) and not (one.opening == other.opening == r"\{"):
        return Outcome.DIFFERENT, "length"
    kinds = {one.opening, other.opening}
    closings = {one.closing, other.closing}
    if one.ordered and other.ordered:
        # (1,2) and [1,2] differ as intervals; <1,2> and (1,2) are the same vector, and so are longer lists.
        plain = kinds <= {"(", r"\langle"} and closings <= {")", r"\rangle"}
        brackets = {one.opening + one.closing, other.opening + other.closing}
        whole = brackets <= {"()", "[]", r"\langle\rangle"}
        if len(brackets) == 2 and not plain and (len(one.items) == 2 or not whole):
            return Outcome.DIFFERENT, "interval"
        return under(_each(one.items, other.items, inner), "tuple")
    if one.ordered or other.ordered:
        if r"\{" in kinds:
            return Outcome.DIFFERENT, "set"
        bare, framed = (one, other) if not one.ordered else (other, one)
        is_interval = "[" in (framed.opening, framed.closing) or "]" in (framed.opening, framed.closing)
        if (is_interval and len(framed.items) == 2) or bare.link == "or":
            return Outcome.DIFFERENT, "list"
        return under(_each(one.items, other.items, inner), "tuple")
    if {one.link, other.link} == {"and", "or"} and re.search(r"[<>]|\\[lg]e", one.items[0]):
        return Outcome.DIFFERENT, "list"
    if kinds == {r"\{"}:
        return under(_match(_distinct(one.items), _distinct(other.items), inner), "set")
    # A list may name a value twice, as 1, 1, 2 does for a double root.
    return under(_match(one.items, other.items, inner), "set" if r"\{" in kinds else "list")


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({text_key(item): item for item in items}.values())


def _each(one: tuple[str, ...], other: tuple[str, ...], inner: Compare) -> Result:
    """Pairwise, in order."""
    if len(one) != len(other) or len(one) > _MAX_ITEMS:
        return Outcome.DIFFERENT, "length"
    open_pairs = False
    for a, b in zip(one, other, strict=True):
        outcome, _ = inner(a, b)
        if outcome is Outcome.DIFFERENT:
            return Outcome.DIFFERENT, "item"
        open_pairs = open_pairs or outcome is Outcome.OPEN
    return (Outcome.OPEN if open_pairs else Outcome.EQUAL), "item"


def _match(one: tuple[str, ...], other: tuple[str, ...], inner: Compare) -> Result:
    """Every item of one side has its equal on the other, in any order."""
    if len(one) != len(other) or len(one) > _MAX_ITEMS:
        return Outcome.DIFFERENT, "length"
    return _paired_off(one, other, inner), "item"


def _paired_off(one: Iterable[T], other: Iterable[T], inner: Callable[[T, T], Result]) -> Outcome:
    """Whether each member of one side can be paired with an equal one of the other, each of which is used once."""
    left = list(other)
    open_pairs = False
    for item in one:
        outcomes = []
        for position, candidate in enumerate(left):
            outcome, _ = inner(item, candidate)
            if outcome is Outcome.EQUAL:
                del left[position]
                break
            outcomes.append(outcome)
        else:
            if Outcome.OPEN not in outcomes:
                return Outcome.DIFFERENT
            open_pairs = True
    return Outcome.OPEN if open_pairs else Outcome.EQUAL


def compare_regions(one: Region, other: Region, inner: Compare) -> Result:
    """Piece by piece, in any order."""

    def same_piece(a: Piece, b: Piece) -> Result:
        if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
            return Outcome.DIFFERENT, "interval"
        return _each((a.low, a.high), (b.low, b.high), inner)

    if len(one.pieces) != len(other.pieces) or (None not in (one.name, other.name) and one.name != other.name):
        return Outcome.DIFFERENT, "interval"
    return _paired_off(one.pieces, other.pieces, same_piece), "interval"
