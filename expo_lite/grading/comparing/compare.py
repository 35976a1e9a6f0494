"""The cascade over what an answer is made of, strict to loose.

The same steps run in the grader's process and in a worker. There (`deep` given) single expressions are also compared by
value; here what only that could decide stays open.
"""

import re

from expo_lite.grading.comparing.leaves import (
    Deep,
    Outcome,
    Scope,
    approximates,
    compare_leaves,
    one_currency,
    one_decimal_sign,
    quantity,
)
from expo_lite.grading.comparing.parts import (
    Compare,
    Result,
    compare_matrices,
    compare_regions,
    compare_sequences,
    under,
)
from expo_lite.grading.comparing.regions import region, solutions
from expo_lite.grading.comparing.relations import compare_relations
from expo_lite.grading.comparing.structures import (
    Leaf,
    Matrix,
    Relation,
    Sequence,
    Structure,
    as_tuple,
    is_one_tuple,
    mixed_number,
    nesting,
    structure,
)
from expo_lite.grading.reading import words
from expo_lite.grading.reading.compound import in_one_unit
from expo_lite.grading.reading.names import (
    in_name_order,
    is_false,
    renamed,
    same_constant,
    same_name,
    split_name,
    sum_value,
    without_domain,
)
from expo_lite.grading.reading.normalise import normalise, text_key
from expo_lite.grading.reading.notations import compare_notations
from expo_lite.grading.reading.sentences import stated
from expo_lite.settings.groups import Rounding

_MAX_CHARS = 3000
_MAX_NESTING = 60
_MAX_DEPTH = 6
_UNKNOWN = (Outcome.OPEN, "none")


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
    gold, answer = (words.digits_for_words(stated(text)) for text in (gold, answer))
    larger = in_one_unit(answer, first=True)
    if larger != answer and compare_leaves(gold, larger, scope)[0] is Outcome.EQUAL:
        return Outcome.EQUAL, "compound"
    gold, answer = in_one_unit(gold), in_one_unit(answer)
    if text_key(gold) == text_key(answer):
        return Outcome.EQUAL, "sentence"
    gold, answer = one_currency(*one_decimal_sign(gold, answer))
    answer = same_constant(gold, answer)
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
        return under(_compare(gold, last_answer, scope, depth + 1), "approximation") if fits else result
    return result


def _choices(gold: str, answer: str, scope: Scope, depth: int) -> Result | None:
    wanted, given = words.choice(gold), words.choice(answer)
    if wanted is None and given is None:
        return None
    if wanted is not None and wanted[1] == "" and answer == wanted[0].lower() and answer != "e":
        return Outcome.EQUAL, "choice"
    if wanted is not None and given is not None:
        if wanted[0] != given[0] or not (wanted[1] and given[1]):
            return (Outcome.EQUAL if wanted[0] == given[0] else Outcome.DIFFERENT), "choice"
        return _compare(wanted[1], given[1], scope, depth + 1)[0], "choice"
    _letter, rest = wanted or given or ("", "")
    if not rest:
        return None
    pair = (rest, answer) if wanted is not None else (gold, rest)
    outcome, _ = _compare(*pair, scope, depth + 1)
    return outcome, "choice"


def _by_structure(gold: str, answer: str, scope: Scope, depth: int) -> Result:
    def inner(one: str, other: str) -> Result:
        return _compare(one, other, scope, depth + 1)

    gold, answer = (solutions(without_domain(text)) for text in (gold, answer))
    regions = _as_regions(gold, answer, inner)
    if regions is not None:
        return regions
    one, other = structure(gold), structure(answer)
    if not isinstance(one, Leaf):
        other = as_tuple(other)
    if not isinstance(other, Leaf):
        one = as_tuple(one)
    if isinstance(one, Relation) or isinstance(other, Relation):
        return _compare_named(gold, answer, one, other, scope, inner)
    if isinstance(one, Matrix) or isinstance(other, Matrix):
        return compare_matrices(one, other, inner)
    if isinstance(one, Sequence) and isinstance(other, Sequence):
        return _compare_lists(gold, answer, one, other, inner)
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        if (one.text, other.text) != (gold, answer):
            return inner(one.text, other.text)
        return compare_leaves(gold, answer, scope)
    return _compare_mixed(one, other, inner, outermost=depth == 0)


def _as_regions(gold: str, answer: str, inner: Compare) -> Result | None:
    """The comparison of two parts of the real line; None where one is none, or they differ and their names do too."""
    wanted, given = region(gold), region(answer)
    if wanted is None or given is None or not (wanted.certain or given.certain):
        return None
    result = compare_regions(wanted, given, inner)
    names_fit = wanted.name == given.name or None in (wanted.name, given.name)
    return result if result[0] is not Outcome.DIFFERENT or names_fit else None


def _compare_lists(gold: str, answer: str, one: Sequence, other: Sequence, inner: Compare) -> Result:
    if is_one_tuple(one) != is_one_tuple(other):  # the set of one point
        return under(inner(one.items[0], answer) if is_one_tuple(one) else inner(gold, other.items[0]), "set")
    if one.ordered != other.ordered:
        one, other = (form if form.ordered else in_name_order(form) for form in (one, other))
    return compare_sequences(one, other, inner)


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
            total = mixed_number(sequence)
            if total is not None:
                return under(inner(*((leaf.text, total) if swapped else (total, leaf.text))), "mixed_number")
            if sequence.link == "or" and outermost:
                return _one_value(leaf, sequence, inner, swapped=swapped)
            if quantity(leaf.text).value is not None:
                return Outcome.DIFFERENT, "list"
    return _UNKNOWN


def _one_value(leaf: Leaf, sequence: Sequence, inner: Compare, *, swapped: bool) -> Result:
    """Whether "0.5 or 1/2" is one value in two spellings, if all of them are equal to the other side."""
    outcomes = {inner(*((leaf.text, item) if swapped else (item, leaf.text)))[0] for item in sequence.items}
    if Outcome.DIFFERENT in outcomes:
        return Outcome.DIFFERENT, "alternatives"
    return (Outcome.OPEN if Outcome.OPEN in outcomes else Outcome.EQUAL), "alternatives"


def _compare_named(gold: str, answer: str, one: Structure, other: Structure, scope: Scope, inner: Compare) -> Result:
    """Equations and inequalities; "x = 5" may be written "5"."""
    name, value = (None, gold) if isinstance(one, Sequence) else split_name(gold)
    other_name, other_value = (None, answer) if isinstance(other, Sequence) else split_name(answer)
    if other_name == "" and is_false(answer, lambda a, b: inner(a, b)[0] is not Outcome.DIFFERENT):
        return Outcome.DIFFERENT, "false_equation"
    if name is not None and other_name is not None:
        if same_name(name, other_name):
            translated = renamed(name, other_name, other_value)
            return (
                (Outcome.DIFFERENT, "variable") if translated is None else under(inner(value, translated), "equation")
            )
    elif name is not None and not isinstance(other, Relation):
        return under(inner(value, answer), "equation")
    elif other_name is not None and not isinstance(one, Relation):
        return under(inner(gold, other_value), "equation")
    elif isinstance(one, Leaf) and (total := sum_value(answer)) is not None:
        return under(inner(gold, total), "equation")
    if isinstance(one, Relation) and isinstance(other, Relation):
        return compare_relations(one, other, scope, inner)
    return _UNKNOWN if scope.deep is None or _mentions_text(gold + answer) else (Outcome.DIFFERENT, "relation")


def _mentions_text(text: str) -> bool:
    return r"\text" in text or "|" in text
