"""Equations: names that an answer may leave out (x = 5, f(x) = 5, (x, y) = (1, 2)), and relations moved around."""

import itertools
import re

from expo_lite.grading.comparing import Result, Scope
from expo_lite.grading.comparing.expression import NotUnderstood, number, parse
from expo_lite.grading.comparing.leaves import quantity
from expo_lite.grading.comparing.lists import Leaf, Relation, Sequence, split_top, structure
from expo_lite.grading.reading.units import Unit

_SUBSCRIPT = r"(?:_(?:\{[^{}]*\}|\w))?"
_LETTER = (
    rf"(?:[A-Za-z]|\\(?!pi\b|infty\b|sin\b|cos\b|tan\b|log\b|ln\b|frac\b|sqrt\b|text\b"
    rf"|in\b|R\b|lim\b|sum\b|int\b)[A-Za-z]+){_SUBSCRIPT}'*"
)
_SEGMENT = rf"(?:[A-Z]{{2,6}}|[A-Z]{_SUBSCRIPT}){_SUBSCRIPT}"
_SIMPLE = (
    rf"{_LETTER}|[A-Z]\^\{{?-?[1T]\}}?|{_LETTER}(?:\^\{{?-1\}}?|\^\{{?\*\}}?|\^\{{\(\d\)\}})?\((?:[^()=<>]|\([^()]*\))*\)|{_SEGMENT}|\|{_SEGMENT}\||"
    rf"(?:m ?)?\\angle ?(?:[A-Z]{{1,3}}|\\[a-z]+|\d)|"
    rf"\\frac\{{{_SEGMENT}\}}\{{{_SEGMENT}\}}|{_SEGMENT} ?[/:] ?{_SEGMENT}|[a-z](?: ?: ?[a-z])+"
    r"|\\text\{[^{}=]{1,60}\}(?:_\{?\w+\}?)?|[A-Z]?[a-z]{2,20}(?: [A-Za-z]{1,20}){0,5}"
)
_NAME = re.compile(rf"^(?:{_SIMPLE})$")
_NAMES = re.compile(rf"^\(?\s?(?:{_LETTER})(?:\s?,\s?(?:{_LETTER}))+\s?\)?$")
_EQUALS = frozenset(("=",))


def compare_approximations(gold: str, answer: str, scope: Scope) -> Result | None:
    r"""Compare the exact values of "\frac{1}{3} \approx 0.333"; "x \approx 1.41" names x."""
    if r"\approx" not in gold and r"\approx" not in answer:
        return None
    chains = [re.split(r" ?\\approx ?", text) for text in (gold, answer)]
    if _is_false(re.split(r" ?(?:\\approx|=) ?", answer), scope):
        return False, "false_equation"
    if not all(chain[0] for chain in chains):
        return scope.equal(chains[0][-1], chains[1][-1]), "approximation"
    exact = [_exact(chain) for chain in chains]
    return scope.equal(exact[0], exact[1]), "approximation"


def _exact(chain: list[str]) -> str:
    """The exact side; a name has none in front (x), and sin(0.3) still has to be computed."""
    if len(chain) > 1 and "=" not in chain[0] and split_name(chain[0] + "=0")[0]:
        return "=".join(chain)
    is_computed = re.search(r"\d\.\d", chain[0]) and quantity(chain[0]).value is None
    return chain[-1] if is_computed else chain[0]


def compare_equations(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare equations and inequalities; "x = 5" may be written "5", and terms may be moved."""
    one, other = structure(gold), structure(answer)
    if not isinstance(one, Relation) and not isinstance(other, Relation):
        return None
    name, value = (None, gold) if isinstance(one, Sequence) else split_name(gold)
    other_name, other_value = (None, answer) if isinstance(other, Sequence) else split_name(answer)
    if other_name is not None and _is_false(split_top(answer, _EQUALS)[0], scope):
        return False, "false_equation"
    if name is not None and other_name is not None:
        if _same_name(name, other_name):
            return scope.equal(value, other_value), "equation"
    elif name is not None and not isinstance(other, Relation):
        return scope.equal(value, answer), "equation"
    elif other_name is not None and not isinstance(one, Relation):
        return scope.equal(gold, other_value), "equation"
    if isinstance(one, Relation) and isinstance(other, Relation):
        same = one.signs == other.signs and all(map(scope.equal, one.sides, other.sides))
        return same or _moved(one, other), "relation"
    return False, "relation"


def split_name(text: str) -> tuple[str | None, str]:
    """Split "name = ... = value" into name and value; the name is None where no plain one stands in front."""
    if "=" not in text:
        return None, text
    sides, found = split_top(text, _EQUALS)
    if not found or not sides[-1]:
        return None, text
    if any(sign in text for sign in ("<", ">", r"\le", r"\ge", r"\ne")):
        return None, text
    name = sides[0]
    if any(quantity(side).tree is None and isinstance(structure(side), Leaf) for side in sides[1:-1]):
        return None, text  # x = 7 if n = 3
    is_name = len(name) < 80 and (_NAME.match(name) or _NAMES.match(name))
    if is_name or re.match(r"\\(?:int|iint|oint|sum|prod|lim)(?![A-Za-z])", name):
        return name, sides[-1]
    return ("", sides[-1]) if _is_plain("".join(sides)) else (None, text)


def _is_false(sides: list[str], scope: Scope) -> bool:
    """Look for a contradiction in a chain: values that differ by more than rounding, such as "19 = 18"."""
    from expo_lite.grading.comparing import values  # late, as in compare_expressions

    for pair in itertools.pairwise(filter(None, sides)):
        read = [quantity(side) for side in pair]
        known = [values.constant(one.tree) for one in read if one.tree is not None and one.unit == Unit()]
        if len(known) == 2 and known[0] is not None and known[1] is not None:
            if abs(known[0] - known[1]) > max(one.place or 0 for one in read):
                return True
        elif _is_plain("".join(pair)) and not scope.equal(*pair):
            return True
    return False


def _is_plain(text: str) -> bool:
    """Check that no letter stands for anything: 2 + 3 = 5 says 5."""
    return not re.search(r"[A-Za-z]", re.sub(r"\\(?:frac|times|cdot|sqrt|pi|div|binom|log|ln|sin|cos|tan)", "", text))


def _same_name(one: str, other: str) -> bool:
    """Check that two names may stand for the same thing; an empty one stands for anything."""
    a, b = (re.sub(r"\\text(?=\w$)|[\s{}]", "", re.sub(r"[{}]", "", name)) for name in (one, other))
    return a == b or not a or not b


def _moved(one: Relation, other: Relation) -> bool:
    """Check that the differences of the sides are multiples of each other, of the sign that the relation needs."""
    from expo_lite.grading.comparing import values  # late, as in compare_expressions

    if len(one.sides) != 2 or len(other.sides) != 2:
        return False
    signs, differences = [], []
    for relation in (one, other):
        sign, sides = relation.signs[0], relation.sides
        if sign in ("<", r"\le"):
            sign, sides = ">" if sign == "<" else r"\ge", sides[::-1]
        try:
            differences.append(("add", parse(sides[0]), ("mul", number(-1), parse(sides[1]))))
        except NotUnderstood:
            return False
        signs.append(sign)
    if signs[0] != signs[1]:
        return False
    return values.proportional(differences[0], differences[1], positive=signs[0] in (">", r"\ge"))
