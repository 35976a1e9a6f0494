"""Lists, tuples, sets, matrices: taking an answer apart, and comparing it part by part."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from expo_lite.grading.comparing import Compare, Result, Scope
from expo_lite.grading.reading.latex import NEWLINE
from expo_lite.grading.reading.normalise import text_key

T = TypeVar("T")
_MAX_ITEMS = 64
_TOKEN = re.compile(
    r"\\begin\{\w+\*?\}(?:\[[^\]]*\])?(?:\{[clr|\s]*\})?|\\end\{\w+\*?\}|\\text\{[^{}]*\}|\\[{}|]|\\[A-Za-z]+"
    r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[A-Za-z]+|.",
    re.DOTALL,
)
_OPENING = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"))
_CLOSING = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"))
_CONNECTOR = re.compile(r"^\\text\{\s*,?\s*(?:and|or|as well as)\s*\}$|^(?:and|or)$")
RELATIONS = frozenset(("=", "<", ">", r"\le", r"\ge", r"\ne"))
_ENVIRONMENT = re.compile(
    r"^[(\[]?\s*\\begin\{([pbvVB]?(?:small)?matrix|array|cases)\*?\}(?:\[[^\]]*\])?(?:\{[clr|\s]*\})?(.*)\\end\{\1\*?\}\s*[)\]]?$",
    re.DOTALL,
)
_FACTOR = re.compile(
    r"(-?(?:\([^-+=,&()]+\)|[^-+=,&()\[\]]*?))\s?(?:\\cdot|\\times)?\s?(?=\\begin\{[pbB]?(?:small)?matrix)"
)
"""The factor of each entry, in front of a matrix."""
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})*$")


@dataclass(frozen=True, slots=True)
class Sequence:
    """Items between brackets; a bare list has none. `link` is what stands between them: "and", "or" or ","."""

    opening: str
    closing: str
    items: tuple[str, ...]
    link: str = ","

    @property
    def ordered(self) -> bool:
        """True if the order of the items counts."""
        return self.opening not in ("", r"\{")


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries; `kind` is the LaTeX environment."""

    kind: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides with relation signs between them."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One expression, number or phrase."""

    text: str


Structure = Sequence | Matrix | Relation | Leaf


def split_top(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside of all brackets, and the separators."""
    parts, found, start = [], [], 0
    for match, depth in _depths(text):
        token = match.group()
        if depth == 0 and (token in separators or ("and" in separators and _CONNECTOR.match(token))):
            parts.append(text[start : match.start()].strip())
            found.append(token)
            start = match.end()
    parts.append(text[start:].strip())
    return parts, found


def _depths(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """The tokens of a text, each with the number of brackets that are open after it."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += token in _OPENING or token.startswith(r"\begin")
        depth -= token in _CLOSING or token.startswith(r"\end")
        yield match, depth


def nesting(text: str) -> int:
    """The largest number of brackets that are open at the same time."""
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(itertools.accumulate(steps, initial=0))


def list_items(text: str, *, bracketed: bool) -> tuple[list[str], str]:
    """The items of a list, and the link between them; a text that is no list is its own only item."""
    if ";" in text:
        parts, found = split_top(text, frozenset(";"))
        if found:
            return [part for part in parts if part], ","
    parts, found = split_top(text, frozenset((",", "and")))
    if not found:
        return [text.strip()], ","
    spaced = not bracketed or ", " in text
    merged = [parts[0]]
    for part, separator in zip(parts[1:], found, strict=True):
        joined = f"{merged[-1]},{part}"
        # 1,234 is a number, unless it stands in a bracket whose commas have no space after them.
        if separator == "," and spaced and joined in text and _splits_thousands(merged[-1], part):
            merged[-1] = joined
        else:
            merged.append(part)
    link = next((word for word in ("or", "and") if any(word in separator for separator in found)), ",")
    return [part for part in merged if part], link


def _splits_thousands(before: str, after: str) -> bool:
    return re.match(r"\d{3}(?!\d)", after) is not None and _THOUSANDS.search(before) is not None


@functools.lru_cache(maxsize=256)
def structure(text: str) -> Structure:
    """Take a normalised answer apart, one level deep."""
    text = text.strip()
    factor = _FACTOR.match(text)
    environment = _ENVIRONMENT.match(text[factor.end() :] if factor else text)
    if environment is not None and text.count(r"\begin") == 1:
        rows = [row for row in environment.group(2).split(NEWLINE) if row.strip(" \\hline")]
        cells = [split_top(row, frozenset("&"))[0] for row in rows]
        if factor and factor[1]:
            times = "-1" if factor[1] == "-" else factor[1]
            cells = [[f"({cell})({times})" for cell in row] for row in cells]
        return Matrix(environment.group(1), tuple(map(tuple, cells)))
    items, link = list_items(text, bracketed=False)
    if len(items) > 1:
        return Sequence("", "", _expanded(items), link)
    if r"\pm" in text:
        expanded = expand_signs(text) if not text.startswith(r"\{") else [text]
        if len(expanded) > 1:
            return Sequence("", "", tuple(expanded))
    return _relation(text) or _bracketed(text)


def _expanded(items: list[str]) -> tuple[str, ...]:
    return tuple(value for item in items for value in (expand_signs(item) if r"\pm" in item else [item]))


def _relation(text: str) -> Relation | None:
    if not any(sign in text for sign in RELATIONS):
        return None
    sides, signs = split_top(text, RELATIONS)
    return Relation(tuple(sides), tuple(signs)) if signs and all(sides) else None


def expand_signs(text: str) -> list[str]:
    r"""The values that \pm stands for."""
    parts = re.split(r"\\pm\s?", text)
    if len(parts) > 4:
        return [text]
    choices = itertools.product("+-", repeat=len(parts) - 1)
    return ["".join(a + b for a, b in zip(parts, (*choice, ""), strict=True)).strip() for choice in choices]


def _bracketed(text: str) -> Structure:
    """A tuple, set or interval where one pair of brackets holds everything; else a leaf."""
    opening = next((mark for mark in (r"\{", r"\langle", "(", "[", "]") if text.startswith(mark)), None)
    closing = next((mark for mark in (r"\}", r"\rangle", ")", "]", "[") if text.endswith(mark)), None)
    if opening is None or closing is None or len(text) < len(opening) + len(closing):
        return Leaf(text)
    inside = text[len(opening) : len(text) - len(closing)]
    turned = opening == "]" or (opening in "([" and closing == "[")  # ]1, 2[ is (1, 2)
    if (turned and not set("()[]") & set(inside)) or _closes_last(text):
        items, _ = list_items(inside, bracketed=True)
        if opening == r"\{" and not inside.strip():
            return Sequence(opening, closing, ())
        if opening == "[" and len(items) > 1 and all(item.startswith("[") and _closes_last(item) for item in items):
            return Matrix("bmatrix", tuple(tuple(list_items(item[1:-1], bracketed=True)[0]) for item in items))
        if len(items) > 1 or opening == r"\{":
            return Sequence(opening, closing, _expanded(items) if opening == r"\{" else tuple(items))
        if opening == "(" and closing == ")":
            return structure(inside)
        if opening == "[" and closing == "]":
            return Sequence(opening, closing, tuple(items))
    return Leaf(text)


def _closes_last(text: str) -> bool:
    """Check that the last character closes the bracket that the text opens with."""
    return next((match.end() == len(text) for match, depth in _depths(text) if depth == 0), False)


# The rules


def compare_matrices(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare cell by cell; a column or a row may stand for a vector."""
    one, other = structure(gold), structure(answer)
    if isinstance(one, Matrix) and isinstance(other, Matrix):
        shapes = [(form.kind in ("vmatrix", "Vmatrix"), [len(row) for row in form.rows]) for form in (one, other)]
        return shapes[0] == shapes[1] and _each(_cells(one), _cells(other), scope.equal), "matrix"
    if isinstance(other, Matrix):
        return compare_matrices(answer, gold, scope)
    if not isinstance(one, Matrix):
        return None
    if not isinstance(other, Sequence) or not other.ordered:
        return False, "matrix"
    is_vector = len(one.rows) == 1 or all(len(row) == 1 for row in one.rows)
    return is_vector and _each(_cells(one), other.items, scope.equal), "vector"


def _cells(matrix: Matrix) -> tuple[str, ...]:
    return tuple(cell for row in matrix.rows for cell in row)


def compare_sequences(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare two lists: in order where there are brackets, in any order where there are none or braces."""
    one, other = structure(gold), structure(answer)
    if isinstance(one, Sequence) and isinstance(other, Sequence):
        return _equal_sequences(one, other, scope.equal)
    return None


def _equal_sequences(one: Sequence, other: Sequence, compare: Compare) -> Result:
    def equal(gold: str, answer: str) -> bool:
        """Compare members; a set is equal to no member that is not one, unlike on its own."""
        are_sets = {text.lstrip().startswith(r"\{") for text in (gold, answer)}
        return len(are_sets) == 1 and compare(gold, answer)

    kinds = {one.opening, other.opening}
    if len(one.items) != len(other.items) and kinds != {r"\{"}:
        return False, "length"
    if one.ordered and other.ordered:
        # (1,2) and [1,2] differ as intervals; <1,2> and (1,2) are the same vector, and so are longer lists.
        plain = kinds <= {"(", r"\langle"} and {one.closing, other.closing} <= {")", r"\rangle"}
        brackets = {one.opening + one.closing, other.opening + other.closing}
        whole = brackets <= {"()", "[]", r"\langle\rangle"}
        if len(brackets) == 2 and not plain and (len(one.items) == 2 or not whole):
            return False, "interval"
        return _each(one.items, other.items, equal), "tuple"
    if one.ordered or other.ordered:
        bare, framed = (other, one) if one.ordered else (one, other)
        is_interval = len(framed.items) == 2 and {"[", "]"} & {framed.opening, framed.closing}
        names = [item.partition("=")[0] for item in bare.items if "=" in item]
        if r"\{" in kinds or is_interval or bare.link == "or" or names != sorted(names):  # (1, 2) is not y = 1, x = 2
            return False, "list"
        return _each(one.items, other.items, equal), "tuple"
    if {one.link, other.link} == {"and", "or"} and re.search(r"[<>]|\\[lg]e", one.items[0]):
        return False, "list"
    if kinds == {r"\{"}:
        return _match(_distinct(one.items), _distinct(other.items), equal), "set"
    if _labelled(one) != _labelled(other):  # 7, 2 is not x = 2, y = 7
        return _each(one.items, other.items, equal), "list"
    # A list may name a value twice, as 1, 1, 2 does for a double root.
    return _match(one.items, other.items, equal), "set" if r"\{" in kinds else "list"


def _labelled(form: Sequence) -> bool:
    """Check that each item names its value, and not all the same one: x_1 and x_2 are both values of x."""
    names = [re.split("[_=]", item)[0].strip() for item in form.items if "=" in item]
    return form.link != "or" and len(names) == len(form.items) and len(set(names)) > 1


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({text_key(item): item for item in items}.values())


def _each(one: tuple[str, ...], other: tuple[str, ...], equal: Compare) -> bool:
    return len(one) == len(other) <= _MAX_ITEMS and all(map(equal, one, other))


def _match(one: tuple[str, ...], other: tuple[str, ...], equal: Compare) -> bool:
    return len(one) == len(other) <= _MAX_ITEMS and paired_off(one, other, equal)


def paired_off(one: Iterable[T], other: Iterable[T], equal: Callable[[T, T], bool]) -> bool:
    """Pair each member of one side with an equal one of the other, in any order."""
    left = list(other)
    for item in one:
        position = next((i for i, candidate in enumerate(left) if equal(item, candidate)), None)
        if position is None:
            return False
        del left[position]
    return True


def compare_with_list(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare a list with a single expression: equal if it is the set of that solution, or names it more than once."""
    one, other = structure(gold), structure(answer)
    if isinstance(other, Sequence):
        one, other = other, one
    if not isinstance(one, Sequence) or not isinstance(other, Leaf):
        return None
    is_set = len(one.items) == 1 and one.opening == r"\{" and other.text.strip() != r"\emptyset"
    if not is_set and not (scope.outermost and one.link == "or"):
        return False, "list"
    return all(scope.equal(item, other.text) for item in one.items), "set" if is_set else "alternatives"
