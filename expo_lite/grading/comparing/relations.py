"""Equations and inequalities: sides swapped, terms moved, both sides multiplied."""

from collections.abc import Callable

from expo_lite.grading.comparing.expression import Tree, number, parse
from expo_lite.grading.comparing.leaves import Deep, Outcome, Scope
from expo_lite.grading.comparing.structures import Relation
from expo_lite.grading.reading.tokens import NotUnderstood

_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
_RISING = frozenset(("<", r"\le"))

Result = tuple[Outcome, str]


def compare_relations(one: Relation, other: Relation, scope: Scope, inner: Callable[[str, str], Result]) -> Result:
    """Side by side in either direction, then by the difference of the sides up to a constant factor."""
    open_pairs = False
    for turned in (other, _turned(other)):
        if turned.signs != one.signs:
            continue
        outcomes = [inner(a, b)[0] for a, b in zip(one.sides, turned.sides, strict=True)]
        if all(outcome is Outcome.EQUAL for outcome in outcomes):
            return Outcome.EQUAL, "relation"
        open_pairs = open_pairs or Outcome.DIFFERENT not in outcomes
    if scope.deep is None:
        return Outcome.OPEN, "relation"
    if len(one.sides) == len(other.sides) == 2:
        verdict = _moved(one, other, scope.deep)
        if verdict is not None:
            return (Outcome.EQUAL if verdict else Outcome.DIFFERENT), "relation"
    return (Outcome.OPEN if open_pairs else Outcome.DIFFERENT), "relation"


def _turned(relation: Relation) -> Relation:
    return Relation(relation.sides[::-1], tuple(_FLIPPED[sign] for sign in reversed(relation.signs)))


def _moved(one: Relation, other: Relation, deep: Deep) -> bool | None:
    """Whether the differences of the sides are multiples of each other, with the sign the relation asks for."""
    differences = []
    for relation in (one, other):
        try:
            left, right = parse(relation.sides[0]), parse(relation.sides[1])
        except NotUnderstood:
            return None
        if relation.signs[0] in _RISING:
            left, right = right, left
        differences.append(_difference(left, right))
    kinds = [
        _FLIPPED[relation.signs[0]] if relation.signs[0] in _RISING else relation.signs[0] for relation in (one, other)
    ]
    if kinds[0] != kinds[1]:
        return False
    return deep.proportional(differences[0], differences[1], positive=kinds[0] in (">", r"\ge"))


def _difference(left: Tree, right: Tree) -> Tree:
    return ("add", left, ("mul", number(-1), right))
