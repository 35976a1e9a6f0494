r"""Boxes in a reply: where they are, and which of several say the answer.

Every scan here is linear in the length of the text: no pattern has a choice to take back on a long stretch, and what
stands between two boxes is looked at only where it is short.
"""

import re
from dataclasses import dataclass
from enum import Enum

from expo_lite.grading.plain import plain_number

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,99}(?=\{)")
_SCAN = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,99}\{|\\(?:[A-Za-z]+|.)|[{}]", re.DOTALL)
# A percent sign makes a comment at the head of a line, or right in front of a box; elsewhere it is a percent sign.
_COMMENT = re.compile(
    r"<!--.*?(?:-->|\Z)|^[ \t]*%[^\n]*|(?<=\s)%[ \t]*(?=\\(?:boxed|fbox))[^\n]*", re.DOTALL | re.MULTILINE
)
_MAX_LINK_CHARS = 120
_MAX_LINK_WORDS = 6
_MAX_PARTS = 12
_CORRECTED = frozenset(
    "wait actually wrong mistake mistaken error oops sorry recheck correction corrected better conclusion "
    "summary final finally".split()
)
_HEDGED = frozenset("also or another alternatively maybe perhaps possibly either".split())
_DERIVED = frozenset(
    "so thus hence therefore then now next step conclude because since gives get gets means check verify no total "
    "answer simplified simplifies becomes".split()
)
_LIST_WORDS = frozenset(("or", "and", "either", "also"))
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|never|instead of|rather than|except|without|nor|isn't)|n't)(?: be"
    r"| equal(?: to)?)?[\s$*:(]{0,9}\Z",
    re.IGNORECASE,
)
_WRONG_AFTER = re.compile(
    r"[\s$*.,;)]{0,9}(?:(?:but|which|that|this|it) )?(?:is|was|would be) (?:wrong|incorrect|not|false|a mistake)\b",
    re.IGNORECASE,
)
_OPERATOR_BEFORE = re.compile(r"(?:[-+*/]|\\(?:times|cdot|div|pm))[\s$({]*\Z")
_SUBSCRIPT = re.compile(r"_\{?\w\}?")
_COMPUTED = re.compile(r"[-+*/]\s?[\d\\]|\\(?:times|cdot|div)|[\d}]\s?[-+*/=]")


class Link(Enum):
    """What the text between two boxes makes of them."""

    STEP = "the earlier one is a step on the way to the later one"
    AND = "both are parts of the answer"
    OR = "both are said to be the answer"
    UNCLEAR = "which of them is the answer is not said"


@dataclass(frozen=True, slots=True)
class Statement:
    """One place where a reply states an answer."""

    start: int
    end: int
    content: str


def without_comments(text: str) -> str:
    """The text with comments as blanks, so that places stay what they are."""
    if "%" not in text and "<!--" not in text:
        return text
    return _COMMENT.sub(lambda found: " " * len(found.group()), text)


def boxes(text: str) -> list[Statement]:
    """The complete outermost boxes in order."""
    if not _BOX.search(text):
        return []
    spans: list[tuple[int, int, int, int]] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _SCAN.finditer(text):
        token = match.group()
        if token == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                while spans and spans[-1][0] >= opened[0]:
                    spans.pop()
                spans.append((*opened, match.start(), match.end()))
        elif token == "{":
            open_braces.append(None)
        elif len(token) > 2 and token.endswith("{"):
            open_braces.append((match.start(), match.end()))
    return [Statement(start, end, text[inside:closing]) for start, inside, closing, end in spans]


def open_box(text: str) -> int | None:
    """Where the last box begins that need not be closed, or None."""
    starts = [match.start() for match in _BOX.finditer(text)]
    return starts[-1] if starts else None


def unbox(answer: str) -> str:
    """What a box holds, out of the boxes inside it."""
    for _ in range(5):
        inner = boxes(answer)
        if not inner:
            break
        last = inner[-1]
        answer = answer[: last.start] + last.content + answer[last.end :]
    return answer.strip()


@dataclass(frozen=True, slots=True)
class Settled:
    """The statements that say the answer, first to last; `unclear` where they contradict each other."""

    parts: tuple[Statement, ...]
    either: bool = False
    unclear: bool = False

    @property
    def start(self) -> int:
        """Where the answer begins to be stated."""
        return self.parts[0].start

    @property
    def answer(self) -> str:
        """The one answer, or the list of its parts."""
        contents = [unbox(part.content) for part in self.parts]
        return (r"\text{ or }" if self.either else ", ").join(contents)


def settle(text: str, found: list[Statement]) -> Settled:
    """Which of several statements is the answer.

    The last one, if the text before it marks the earlier ones as steps: it is long, computes, concludes or corrects.
    Statements side by side are one answer with several parts, so that none of them alone counts. Where it is
    not said how they belong together, or the last is said to be wrong, there is no answer.
    """
    last = found[-1]
    parts, either, start = [last], False, last.start
    unclear = bool(
        _NOT_BEFORE.search(text[max(0, start - 40) : start]) or _WRONG_AFTER.match(text[last.end : last.end + 60])
    )
    for statement in reversed(found[:-1]):
        if unclear:
            break
        between = text[statement.end : start]
        link = _link(between)
        if _same(statement, parts[0]):
            if len(between) > _MAX_LINK_CHARS:
                break
        elif link is Link.STEP or (
            link is Link.OR and _OPERATOR_BEFORE.search(text[max(0, statement.start - 20) : statement.start])
        ):
            break  # in 9 + [9] = [18] the first box is a step
        elif link is Link.UNCLEAR or len(parts) == _MAX_PARTS:
            unclear = True
        else:
            parts.insert(0, statement)
            either = either or link is Link.OR
        start = statement.start
    return Settled(tuple(parts), either, unclear)


def _same(one: Statement, other: Statement) -> bool:
    contents = [statement.content.replace(" ", "") for statement in (one, other)]
    numbers = [plain_number(content) for content in contents]
    return contents[0] == contents[1] or (numbers[0] is not None and numbers[0] == numbers[1])


def _link(between: str) -> Link:
    if len(between) > _MAX_LINK_CHARS:
        return Link.STEP
    if _NOT_BEFORE.search(between):
        return Link.UNCLEAR
    said = re.sub(r"\\[A-Za-z]+", " ", between)
    words = re.findall(r"[A-Za-z']{2,}", said.lower())
    if _CORRECTED.intersection(words):
        return Link.STEP
    if len(words) > _MAX_LINK_WORDS and _HEDGED.intersection(words):
        return Link.UNCLEAR
    if _DERIVED.intersection(words) or any(len(word) > 5 and word.endswith("ing") for word in words):
        return Link.UNCLEAR if _HEDGED.intersection(words) else Link.STEP
    if len(words) > _MAX_LINK_WORDS or _COMPUTED.search(_SUBSCRIPT.sub("", between)):
        return Link.STEP
    if _HEDGED.intersection(words) - _LIST_WORDS:
        return Link.UNCLEAR
    return (
        Link.OR
        if "or" in words or re.search(r"^[^\w\\]*=[^\w\\]*\Z|\\(?:approx|equiv|lor|vee)\b", between)
        else Link.AND
    )
