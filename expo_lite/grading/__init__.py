r"""Right or wrong: a completion's final answer, and the equations of a chain.

`Grader.grade` finds the final answer (`reading.extract`) and decides equal texts and plain numbers at once. A worker
process, which is killed at its limits, decides everything else with `judge`: it tries the rules below in order, and the
first that applies decides. Its name, or a more exact one, is the verdict's `how`.
"""

from collections.abc import Callable
from typing import NamedTuple

from expo_lite.grading.comparing import Result, Scope, equations, leaves, lists, regions, words
from expo_lite.grading.grader import GradeItem, Grader
from expo_lite.grading.reading.extract import final_answer
from expo_lite.grading.reading.normalise import normalise, text_key
from expo_lite.settings.groups import Rounding

__all__ = ["RULES", "GradeItem", "Grader", "Rule", "final_answer", "judge"]

_MAX_NESTING = 60
_MAX_DEPTH = 6


class Rule(NamedTuple):
    """A rule that decides about some answers; `decide` returns None where it does not apply."""

    name: str
    line: str
    decide: Callable[[str, str, Scope], Result | None]


RULES = (
    Rule("compound", "2 hours 30 minutes is 150 minutes.", leaves.compare_compounds),
    Rule("approximation", r"1/3 \approx 0.333 is 1/3.", equations.compare_approximations),
    Rule("choice", "(B) 12 is B, and 12 if the reference has no letter.", words.compare_choices),
    Rule("named_answer", '"no solution" is the empty set; "yes" is "true".', words.compare_nothing),
    Rule("time", "15:00 is 3:00 PM.", words.compare_times),
    Rule("base", "Numbers in the same base have the same digits; without a base it is ten.", words.compare_bases),
    Rule("ratio", "3:4 is 6:8, 3 to 4 and 0.75.", words.compare_ratios),
    Rule("interval", r"[1, 2) is 1 \le x < 2; unions and points taken out too.", regions.compare_regions),
    Rule("equation", "x = 5 is 5; in equations and inequalities terms may be moved.", equations.compare_equations),
    Rule("matrix", "Matrices are equal cell by cell; a column or a row is a vector.", lists.compare_matrices),
    Rule("list", "Tuples are equal in order, sets and lists in any order.", lists.compare_sequences),
    Rule("alternatives", "0.5 or 1/2 is 1/2; a set of one solution is the solution.", lists.compare_with_list),
    Rule("words", "Words are equal as text, whatever their case.", leaves.compare_words),
    Rule("unit", "5 m is not 5 kg; one side may leave its unit out.", leaves.compare_units),
    Rule("number", "Rational numbers are equal exactly, in the same unit.", leaves.compare_numbers),
    Rule("expression", "Expressions are equal by value, at many digits and points.", leaves.compare_expressions),
)


def judge(gold: str, answer: str, *, rounding: Rounding = "never") -> Result:
    """Compare two raw answers: whether they are equal, and the name of what decided."""
    gold, answer = normalise(gold), normalise(answer)
    if max(lists.nesting(gold), lists.nesting(answer)) > _MAX_NESTING:
        return False, "too_deep"
    if not answer or not gold:
        return False, "text"
    try:
        return _compare(gold, answer, rounding, 0)
    except RecursionError:  # such as a set in a set in a set
        return False, "too_deep"


def _compare(gold: str, answer: str, rounding: Rounding, depth: int) -> Result:
    if text_key(gold) == text_key(answer):
        return True, "text"
    if depth > _MAX_DEPTH:
        return False, "too_deep"
    gold, answer = (words.bare_point(words.digits_for_words(text)) for text in (gold, answer))
    scope = Scope(lambda one, other: _compare(one, other, rounding, depth + 1)[0], rounding, outermost=depth == 0)
    for rule in RULES:
        result = rule.decide(gold, answer, scope)
        if result is not None:
            return result
    return False, "none"
