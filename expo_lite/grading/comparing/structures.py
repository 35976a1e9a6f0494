"""What an answer is made of: lists, tuples, sets, intervals, matrices, relations, or one expression."""

import itertools
import re
from dataclasses import dataclass

from expo_lite.grading.reading.latex import NEWLINE

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
        """Whether the order of the items counts."""
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
    parts, found, start, depth, at = [], [], 0, 0, 0
    for match in _TOKEN.finditer(text):
        token, at = match.group(), match.start()
        if token in _OPENING or token.startswith(r"\begin"):
            depth += 1
        elif token in _CLOSING or token.startswith(r"\end"):
            depth -= 1
        elif depth == 0 and (token in separators or ("and" in separators and _CONNECTOR.match(token))):
            parts.append(text[start:at].strip())
            found.append(token)
            start = match.end()
    parts.append(text[start:].strip())
    return parts, found


def nesting(text: str) -> int:
    """How many brackets are open at most at the same time."""
    deepest = depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


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
        # 1,234 is a number, unless it stands in a bracket where no comma has a space behind it.
        if separator == "," and spaced and joined in text and _splits_thousands(merged[-1], part):
            merged[-1] = joined
        else:
            merged.append(part)
    link = next((word for word in ("or", "and") if any(word in separator for separator in found)), ",")
    return [part for part in merged if part], link


def _splits_thousands(before: str, after: str) -> bool:
    return re.match(r"\d{3}(?!\d)", after) is not None and _THOUSANDS.search(before) is not None


def structure(text: str) -> Structure:
    """What a normalised answer is made of, one level deep."""
    text = text.strip()
    environment = _ENVIRONMENT.match(text)
    if environment is not None and text.count(r"\begin") == 1:
        rows = [row for row in environment.group(2).split(NEWLINE) if row.strip(" \\hline")]
        if environment.group(1) == "array" and len(rows) == 1 and "&" not in rows[0]:
            return structure(rows[0])
        cells = (split_top(row, frozenset("&"))[0] for row in rows)
        return Matrix(environment.group(1), tuple(map(tuple, cells)))
    items, link = list_items(text, bracketed=False)
    if len(items) > 1:
        return Sequence("", "", _expanded(items), link)
    if r"\pm" in text or r"\mp" in text:
        expanded = expand_signs(text) if not text.startswith(r"\{") else [text]
        if len(expanded) > 1:
            return Sequence("", "", tuple(expanded))
    return _relation(text) or _bracketed(text)


def _expanded(items: list[str]) -> tuple[str, ...]:
    return tuple(value for item in items for value in (expand_signs(item) if r"\pm" in item else [item]))


_POINT = re.compile(
    r"^(?:[A-Z]'? ?|(?:\\text\{ ?)?(?:the )?(?:point|vertex|center|centre|focus|ordered pair|pair|vector"
    r"|coordinates)(?: at)? ?(?:[A-Z] ?)?\}? ?)"
    r"=? ?(?=\()",
    re.IGNORECASE,
)
_UNIT_VECTORS = re.compile(
    r"^(?P<i>[+-]?[^-+ij=,]{0,20})(?:\\hat ?|\\ihat"
    r"|\{)?\{?i\}? ?(?P<j>[+-][^-+ijk=,]{0,20})(?:\\hat ?)?\{?j\}? ?(?:(?P<k>[+-][^-+k=,]{0,20})(?:\\hat ?)?\{?k\}?)?$"
)


def as_tuple(leaf: Structure) -> Structure:
    """The tuple of "P(3, 4)", "the point (3, 4)" or "3i + 4j"; anything else as it is."""
    if not isinstance(leaf, Leaf):
        return leaf
    point = _POINT.match(leaf.text)
    if point is not None:
        form = structure(leaf.text[point.end() :])
        if isinstance(form, Sequence) and form.ordered and len(form.items) > 1:
            return form
    vectors = _UNIT_VECTORS.match(leaf.text)
    if vectors is not None:
        parts = [part.replace(" ", "") for part in vectors.group("i", "j", "k") if part is not None]
        return Sequence("(", ")", tuple(part + "1" if part in ("", "+", "-") else part.lstrip("+") for part in parts))
    return leaf


def is_one_tuple(form: Sequence) -> bool:
    """Whether a set holds one tuple and nothing else."""
    return form.opening == r"\{" and len(form.items) == 1 and form.items[0].startswith("(")


def mixed_number(form: Sequence) -> str | None:
    """The sum that "2 and 1/3" may mean; None for any other list."""
    if form.link != "and" or form.opening or len(form.items) != 2 or not re.fullmatch(r"-?\d{1,9}", form.items[0]):
        return None
    part = re.fullmatch(r"(\d{1,9})/(\d{1,9})|\\frac\{?(\d{1,9})\}?\{?(\d{1,9})\}?", form.items[1])
    if part is None:
        return None
    top, bottom = (int(number) for number in part.groups() if number is not None)
    return f"{form.items[0]} {top}/{bottom}" if 0 < top < bottom else None


def _relation(text: str) -> Relation | None:
    if not any(sign in text for sign in RELATIONS):
        return None
    sides, signs = split_top(text, RELATIONS)
    return Relation(tuple(sides), tuple(signs)) if signs and all(sides) else None


def expand_signs(text: str) -> list[str]:
    r"""The values that \pm and \mp stand for; signs go together where both occur, else each is free."""
    parts = re.split(r"\\(pm|mp)\s?", text)
    names = parts[1::2]
    if len(names) > 3:
        return [text]
    if "mp" in names:
        signs = [{"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"}]
        choices = [tuple(choice[name] for name in names) for choice in signs]
    else:
        choices = list(itertools.product("+-", repeat=len(names)))
    return ["".join(a + b for a, b in zip(parts[::2], (*choice, ""), strict=True)).strip() for choice in choices]


def _bracketed(text: str) -> Structure:
    """A tuple, set or interval where one pair of brackets holds everything; else a leaf."""
    opening = next((mark for mark in (r"\{", r"\langle", "(", "[", "]") if text.startswith(mark)), None)
    closing = next((mark for mark in (r"\}", r"\rangle", ")", "]", "[") if text.endswith(mark)), None)
    if opening is None or closing is None or len(text) < len(opening) + len(closing):
        return Leaf(text)
    inside = text[len(opening) : len(text) - len(closing)]
    if ((opening == "]" or (opening in "([" and closing == "[")) and not set("()[]") & set(inside)) or _closes_last(
        text
    ):
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
    """Whether the bracket that the text opens with is closed by its last character."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING or token.startswith(r"\begin"):
            depth += 1
        elif token in _CLOSING or token.startswith(r"\end"):
            depth -= 1
            if depth == 0:
                return match.end() == len(text)
    return False
