"""The cascade over what an answer is made of, strict to loose.

The same steps run in the grader's process and in a worker. There (`deep` given) single expressions are also compared by
value; here what only that could decide stays open.
"""

import re
from collections.abc import Callable

from expo_lite.grading import words
from expo_lite.grading.compound import in_one_unit
from expo_lite.grading.leaves import (
    Deep,
    Outcome,
    Rounding,
    Scope,
    approximates,
    compare_leaves,
    one_currency,
    one_decimal_sign,
    quantity,
)
from expo_lite.grading.names import same_name, split_name, sum_value
from expo_lite.grading.normalise import normalise, text_key
from expo_lite.grading.notations import compare_notations
from expo_lite.grading.regions import Piece, Region, region, solutions
from expo_lite.grading.relations import compare_relations
from expo_lite.grading.structures import Leaf, Matrix, Relation, Sequence, Structure, nesting, structure

_MAX_CHARS = 3000
_MAX_NESTING = 60
_MAX_ITEMS = 64
_MAX_DEPTH = 6
_UNKNOWN = (Outcome.OPEN, "none")

Result = tuple[Outcome, str]
Compare = Callable[[str, str], Result]


def judge_quickly(gold: str, answer: str) -> Result:
    """The outcome of the steps that need no symbolic mathematics, and the name of the one that decided."""
    return judge(gold, answer)


def equal_answers(gold: str, answer: str) -> str | None:
    """The name of the cheap step that finds the answers equal, or None."""
    outcome, how = judge(gold, answer)
    return how if outcome is Outcome.EQUAL else None


def judge(gold: str, answer: str, deep: Deep | None = None, *, rounding: Rounding = "never") -> Result:
    """Compare two raw answers; with `deep` also by the values of expressions."""
    if gold.strip() == answer.strip():
        return Outcome.EQUAL, "text"
    if len(gold) + len(answer) > _MAX_CHARS:
        return Outcome.DIFFERENT, "too_long"
    gold, answer = normalise(gold), normalise(answer)
    if max(nesting(gold), nesting(answer)) > _MAX_NESTING:
        return Outcome.DIFFERENT, "too_deep"
    if not answer or not gold:
        return Outcome.DIFFERENT, "text"
    try:
        return _compare(gold, answer, Scope(deep, rounding), 0)
    except RecursionError:  # such as a set in a set in a set
        return Outcome.DIFFERENT, "too_deep"


def _compare(gold: str, answer: str, scope: Scope, depth: int) -> Result:
    if text_key(gold) == text_key(answer):
        return Outcome.EQUAL, "text"
    if depth > _MAX_DEPTH:
        return _UNKNOWN
    gold, answer = (in_one_unit(words.digits_for_words(text)) for text in (gold, answer))
    gold, answer = one_currency(*one_decimal_sign(gold, answer))
    if r"\approx" in gold or r"\approx" in answer:
        outcome = _approximate(gold, answer, scope, depth)
        if outcome is not None:
            return outcome
    chosen = _choices(gold, answer, scope, depth)
    if chosen is not None:
        return chosen
    noted = compare_notations(gold, answer)
    if noted is not None:
        return noted
    return _by_structure(gold, answer, scope, depth)


def _approximate(gold: str, answer: str, scope: Scope, depth: int) -> Result | None:
    """An exact value with an approximation behind it counts as its exact value; the approximation if it is one."""
    exact_gold, exact_answer = (re.split(r"\\approx ?", text)[0].strip() for text in (gold, answer))
    last_gold, last_answer = (re.split(r"\\approx ?", text)[-1].strip() for text in (gold, answer))
    if not exact_gold or not exact_answer:
        return _compare(last_gold, last_answer, scope, depth + 1)
    if split_name(exact_answer + "=0")[0] or split_name(exact_gold + "=0")[0]:
        # "x \approx 1.41" names x.
        return _compare(gold.replace(r"\approx", "="), answer.replace(r"\approx", "="), scope, depth + 1)
    result = _compare(exact_gold, exact_answer, scope, depth + 1)
    if result[0] is not Outcome.EQUAL and r"\approx" not in gold and quantity(last_gold).place is not None:
        fits = approximates(last_answer, exact_answer, scope)
        if fits is None:
            return Outcome.OPEN, "approximation"
        return _as(_compare(gold, last_answer, scope, depth + 1), "approximation") if fits else result
    return result


def _choices(gold: str, answer: str, scope: Scope, depth: int) -> Result | None:
    wanted, given = words.choice(gold), words.choice(answer)
    if wanted is None and given is None:
        return None
    if wanted is not None and wanted[1] == "" and answer == wanted[0].lower() and answer != "e":
        return Outcome.EQUAL, "choice"
    if wanted is not None and given is not None:
        letters_equal = wanted[0] == given[0]
        return (Outcome.EQUAL if letters_equal else Outcome.DIFFERENT), "choice"
    _letter, rest = wanted or given or ("", "")
    if not rest:
        return None
    pair = (rest, answer) if wanted is not None else (gold, rest)
    outcome, _ = _compare(*pair, scope, depth + 1)
    return outcome, "choice"


def _by_structure(gold: str, answer: str, scope: Scope, depth: int) -> Result:
    def inner(one: str, other: str) -> Result:
        return _compare(one, other, scope, depth + 1)

    gold, answer = solutions(gold), solutions(answer)
    wanted, given = region(gold), region(answer)
    if wanted is not None and given is not None and (wanted.certain or given.certain):
        result = _compare_regions(wanted, given, inner)
        if result[0] is not Outcome.DIFFERENT or wanted.name == given.name or None in (wanted.name, given.name):
            return result
    one, other = structure(gold), structure(answer)
    if isinstance(one, Relation) or isinstance(other, Relation):
        return _compare_named(gold, answer, one, other, scope, inner)
    if isinstance(one, Matrix) or isinstance(other, Matrix):
        return _compare_matrices(one, other, inner)
    if isinstance(one, Sequence) and isinstance(other, Sequence):
        return _compare_sequences(one, other, inner)
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        if (one.text, other.text) != (gold, answer):
            return inner(one.text, other.text)
        return compare_leaves(gold, answer, scope)
    return _compare_mixed(one, other, inner, outermost=depth == 0)


def _compare_mixed(one: Structure, other: Structure, inner: Compare, *, outermost: bool) -> Result:
    """A list against a single expression: equal only where it is the set of that one solution."""
    for sequence, leaf, swapped in ((one, other, False), (other, one, True)):
        if isinstance(sequence, Sequence) and isinstance(leaf, Leaf):
            if leaf.text.strip() == r"\emptyset":
                return Outcome.DIFFERENT, "set"
            if len(sequence.items) == 1 and sequence.opening == r"\{" and outermost:
                pair = (sequence.items[0], leaf.text)
                outcome, _ = inner(*(pair[::-1] if swapped else pair))
                return outcome, "set"
            if sequence.link == "or" and outermost:
                return _one_value(leaf, sequence, inner, swapped=swapped)
            if quantity(leaf.text).value is not None:
                return Outcome.DIFFERENT, "list"
    return _UNKNOWN


def _one_value(leaf: Leaf, sequence: Sequence, inner: Compare, *, swapped: bool) -> Result:
    """ "0.5 or 1/2" is one value in two spellings, if all of them are equal to the other side."""
    outcomes = {inner(*((leaf.text, item) if swapped else (item, leaf.text)))[0] for item in sequence.items}
    if Outcome.DIFFERENT in outcomes:
        return Outcome.DIFFERENT, "alternatives"
    return (Outcome.OPEN if Outcome.OPEN in outcomes else Outcome.EQUAL), "alternatives"


def _compare_named(gold: str, answer: str, one: Structure, other: Structure, scope: Scope, inner: Compare) -> Result:
    """Equations and inequalities; "x = 5" may be written "5"."""
    (name, value), (other_name, other_value) = split_name(gold), split_name(answer)
    if name is not None and other_name is not None:
        if same_name(name, other_name):
            return _as(inner(value, other_value), "equation")
    elif name is not None and not isinstance(other, Relation):
        return _as(inner(value, answer), "equation")
    elif other_name is not None and not isinstance(one, Relation):
        return _as(inner(gold, other_value), "equation")
    elif isinstance(one, Leaf) and (total := sum_value(answer)) is not None:
        return _as(inner(gold, total), "equation")
    if isinstance(one, Relation) and isinstance(other, Relation):
        return compare_relations(one, other, scope, inner)
    return _UNKNOWN if scope.deep is None or _mentions_text(gold + answer) else (Outcome.DIFFERENT, "relation")


def _mentions_text(text: str) -> bool:
    return r"\text" in text or "|" in text


def _as(result: Result, how: str) -> Result:
    """The result of an inner comparison under the name of the outer one, unless that says less."""
    return result if result[1] in ("text", "none") and result[0] is Outcome.OPEN else (result[0], how)


def _compare_matrices(one: Structure, other: Structure, inner: Compare) -> Result:
    if isinstance(one, Matrix) and isinstance(other, Matrix):
        if "cases" in (one.kind, other.kind):
            rows = ([", ".join(row) for row in form.rows] for form in (one, other))
            return _as(_match(tuple(next(rows)), tuple(next(rows)), inner), "piecewise")
        if _is_determinant(one) != _is_determinant(other):
            return Outcome.DIFFERENT, "matrix"
        if [len(row) for row in one.rows] != [len(row) for row in other.rows]:
            return Outcome.DIFFERENT, "matrix"
        cells = [tuple(cell for row in form.rows for cell in row) for form in (one, other)]
        return _as(_each(cells[0], cells[1], inner), "matrix")
    matrix, rest = (one, other) if isinstance(one, Matrix) else (other, one)
    if isinstance(matrix, Matrix) and isinstance(rest, Sequence) and rest.ordered and matrix.kind != "cases":
        # A column or row stands for a vector.
        if len(matrix.rows) == 1 or all(len(row) == 1 for row in matrix.rows):
            cells_of_vector = tuple(cell for row in matrix.rows for cell in row)
            pair = (cells_of_vector, rest.items) if matrix is one else (rest.items, cells_of_vector)
            return _as(_each(*pair, inner), "vector")
        return Outcome.DIFFERENT, "matrix"
    return _UNKNOWN


def _is_determinant(matrix: Matrix) -> bool:
    return matrix.kind in ("vmatrix", "Vmatrix")


def _compare_sequences(one: Sequence, other: Sequence, inner: Compare) -> Result:
    if len(one.items) != len(other.items) and not (one.opening == other.opening == r"\{"):
        return Outcome.DIFFERENT, "length"
    kinds = {one.opening, other.opening}
    if one.ordered and other.ordered:
        # (1,2) and [1,2] differ as intervals; <1,2> and (1,2) are the same vector, and so are longer lists.
        plain = {"(", r"\langle"}
        if one.opening + one.closing != other.opening + other.closing and len(one.items) == 2 and not kinds <= plain:
            return Outcome.DIFFERENT, "interval"
        return _as(_each(one.items, other.items, inner), "tuple")
    if one.ordered or other.ordered:
        if r"\{" in kinds:
            return Outcome.DIFFERENT, "set"
        bare, framed = (one, other) if not one.ordered else (other, one)
        if (framed.opening == "[" and len(framed.items) == 2) or bare.link == "or":
            return Outcome.DIFFERENT, "list"
        return _as(_each(one.items, other.items, inner), "tuple")
    if {one.link, other.link} == {"and", "or"} and re.search(r"[<>]|\\[lg]e", one.items[0]):
        return Outcome.DIFFERENT, "list"
    how = "set" if r"\{" in kinds else "list"
    return _as(_match(_distinct(one.items), _distinct(other.items), inner), how)


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({text_key(item): item for item in items}.values())


def _each(one: tuple[str, ...], other: tuple[str, ...], inner: Compare) -> Result:
    """Pairwise, in order."""
    if len(one) != len(other):
        return Outcome.DIFFERENT, "length"
    if len(one) > _MAX_ITEMS:
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
                return Outcome.DIFFERENT, "item"
            open_pairs = True
    return (Outcome.OPEN if open_pairs else Outcome.EQUAL), "item"


def _compare_regions(one: Region, other: Region, inner: Compare) -> Result:
    def same_piece(a: Piece, b: Piece) -> Result:
        if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
            return Outcome.DIFFERENT, "interval"
        return _each((a.low, a.high), (b.low, b.high), inner)

    if len(one.pieces) != len(other.pieces) or (None not in (one.name, other.name) and one.name != other.name):
        return Outcome.DIFFERENT, "interval"
    left = list(other.pieces)
    open_pairs = False
    for piece in one.pieces:
        outcomes = []
        for position, candidate in enumerate(left):
            outcome, _ = same_piece(piece, candidate)
            if outcome is Outcome.EQUAL:
                del left[position]
                break
            outcomes.append(outcome)
        else:
            if Outcome.OPEN not in outcomes:
                return Outcome.DIFFERENT, "interval"
            open_pairs = True
    return (Outcome.OPEN if open_pairs else Outcome.EQUAL), "interval"
