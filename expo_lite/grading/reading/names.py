"""The names in front of an equals sign that an answer may leave out: x = 5, f(x) = 5, AB = 5, (x, y) = (1, 2)."""

import itertools
import re
from collections.abc import Callable

from expo_lite.grading.comparing.structures import Sequence, split_top

_SUBSCRIPT = r"(?:_(?:\{[^{}]*\}|\w))?"
_LETTER = (
    rf"(?:[A-Za-z]|\\(?!pi\b|infty\b|sin\b|cos\b|tan\b|log\b|ln\b|frac\b|sqrt\b|text\b"
    rf"|in\b|R\b|lim\b|sum\b|int\b)[A-Za-z]+){_SUBSCRIPT}'*"
)
_SEGMENT = rf"(?:[A-Z]{{2,6}}|[A-Z]{_SUBSCRIPT}){_SUBSCRIPT}"
_SIMPLE = (
    rf"{_LETTER}|[A-Z]\^\{{?-?[1T]\}}?|{_LETTER}(?:\^\{{?-1\}}?|\^\{{?\*\}}?|\^\{{\(\d\)\}})?\((?:[^()=<>]|\([^()]*\))*\)|{_SEGMENT}|\|{_SEGMENT}\||"
    rf"(?:m ?)?\\angle ?(?:[A-Z]{{1,3}}|\\[a-z]+|\d)|\\(?:overline|overarc|widehat|vec|hat|bar) ?\{{?\w+\}}?|"
    rf"\\frac\{{{_SEGMENT}\}}\{{{_SEGMENT}\}}|{_SEGMENT} ?[/:] ?{_SEGMENT}|[a-z](?: ?: ?[a-z])+"
    rf"|\\frac\{{d\^?\d?[a-z]?\}}\{{d[a-z]\^?\d?\}}(?:[a-z](?:\([a-z]\))?)?|"
    r"\\text\{[^{}=]{1,60}\}(?:_\{?\w+\}?)?|[A-Z]?[a-z]{2,20}(?: [A-Za-z]{1,20}){0,5}"
)
_NAME = re.compile(rf"^(?:{_SIMPLE})$")
_NAMES = re.compile(rf"^\(?\s?(?:{_LETTER})(?:\s?,\s?(?:{_LETTER}))+\s?\)?$")
_SUM = re.compile(r"^[A-Za-z](?: ?[+] ?[A-Za-z])+ ?=(?:[^=<>A-Za-z]*=)? ?(?P<value>-?[\d.,]+)$")
_EQUALS = frozenset(("=",))


def split_name(text: str) -> tuple[str | None, str]:
    """Name and value of "name = ... = value"; (None, text) where no plain name stands in front."""
    if "=" not in text:
        return None, text
    sides, found = split_top(text, _EQUALS)
    if not found or not sides[-1]:
        return None, text
    if any(sign in text for sign in ("<", ">", r"\le", r"\ge", r"\ne")):
        return None, text
    name = sides[0]
    if len(name) < 80 and (_NAME.match(name) or _NAMES.match(name)):
        return name, sides[-1]
    if re.match(r"\\(?:int|iint|oint|sum|prod|lim)(?![A-Za-z])", name):
        return name, sides[-1]
    # 2 + 3 = 5 says 5.
    if not re.search(r"[A-Za-z]", re.sub(r"\\(?:frac|times|cdot|sqrt|pi|div|binom)", "", "".join(sides))):
        return "", sides[-1]
    return None, text


def is_false(text: str, may_be_equal: Callable[[str, str], bool]) -> bool:
    """Whether a chain of numbers such as "19 = 18" contradicts itself."""
    sides, _ = split_top(text, _EQUALS)
    return any(not may_be_equal(one, other) for one, other in itertools.pairwise(sides))


def sum_value(text: str) -> str | None:
    """What an answer says of a sum that was asked for, 14 for "m + n = 14"; None for anything else."""
    match = _SUM.match(text)
    return match.group("value") if match is not None else None


def same_name(one: str, other: str) -> bool:
    """Whether two names may stand for the same thing: equal, f(x) for y, or one of them not saying."""
    a, b = (re.sub(r"[\s{}]", "", name) for name in (one, other))
    if a == b or not a or not b:
        return True
    heads = [re.match(r"^(\\?[A-Za-z]+)\((.*)\)$", name) for name in (a, b)]
    if all(heads):
        # f(x) and f(t) may be the same function, f(2) and f(3) are two of its values.
        told = {
            (head.group(1), "x" if len(head.group(2)) == 1 and head.group(2).isalpha() else head.group(2))
            for head in heads
            if head
        }
        return len(told) == 1
    if any(heads):
        bare = b if heads[0] else a
        head = next(head.group(1) for head in heads if head)
        return bare == "y" or bare == head
    wordy = [bool(re.match(r"^(?:\\text|[A-Z]?[a-z]{2})", name)) for name in (a, b)]
    return any(wordy) and not all(wordy)


def renamed(name: str, other_name: str, other_value: str) -> str | None:
    """The value of h(m) = 3m - 5 with the variable of h(n); None where that one stands for something else in it."""
    mine, yours = (re.match(r"^\\?[A-Za-z]+\s?\(\s?([A-Za-z])\s?\)$", text.strip()) for text in (name, other_name))
    if mine is None or yours is None or mine.group(1) == yours.group(1):
        return other_value
    letter = r"(?<![A-Za-z\\]){}(?![A-Za-z])"
    if re.search(letter.format(mine.group(1)), other_value):
        return None
    return re.sub(letter.format(yours.group(1)), mine.group(1), other_value)


_CONSTANT = r"(?:(?<=[+-])|(?<=[+-] )|^){}(?![A-Za-z(_^])"


def same_constant(gold: str, answer: str) -> str:
    """The answer with its constant of integration named as in the gold: "+ c" for "+ C"."""
    if re.search(_CONSTANT.format("C"), gold) is None or "C" in answer:
        return answer
    return re.sub(_CONSTANT.format("[cKk]"), "C", answer, count=1)


def in_name_order(form: Sequence) -> Sequence:
    """A list such as "y = 4, x = 3" in the order of its names; any other list as it is."""
    names = [re.match(r"([A-Za-z])(?:_\{?\d\}?)? ?=", item) for item in form.items]
    if form.opening or not all(names) or len({name.group() for name in names if name}) < len(names):
        return form
    ordered = sorted(form.items, key=lambda item: item.split("=")[0])
    return Sequence(form.opening, form.closing, tuple(ordered), form.link)


_SET = r"(?:\\[RZNQC](?![A-Za-z])[^=<>]{0,12}|[\[(][^=<>]{1,30}[\])])"
_DOMAIN = re.compile(
    rf"^(?P<formula>[^=]{{1,40}}=.+?)[,;]?\s?(?:\(\s?|\\text\{{\s?,?\s?)?"
    rf"(?:(?:for|where|with)(?: all| every| any| each)?(?: real| reals| integers?| numbers?"
    rf"| values of)*(?: [a-z])?\s?\}}?\s?"
    rf"(?:\s?[a-z]?\s?(?:\\in\s?|\\text\{{ ?in ?\}} ?){_SET})?[a-z]?(?:\\text\{{ ?real(?: numbers?)? ?\}})?"
    rf"|(?<=[,;( ])[a-z]\s?\\in\s?{_SET})\s?\)?$",
    re.DOTALL,
)


def without_domain(text: str) -> str:
    r"""The formula of "g(x) = 2 \text{{ for all }} x \in \R"; any other text as it is."""
    if "=" not in text or not (r"\in" in text or "for" in text or "wh" in text):
        return text
    match = _DOMAIN.match(text)
    return text if match is None else match.group("formula").strip(" ,;")
