r"""The final answer of a completion: the last complete boxes, else the usual phrases, else nothing and why.

This runs in the caller's own thread, so every pattern is linear: no pattern has a choice to take back on a long
stretch, and what stands between two boxes is looked at only where it is short.
"""

import re
from dataclasses import dataclass
from typing import Literal

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,99}(?=\{)")
_SCAN = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,99}\{|\\(?:[A-Za-z]+|.)|[{}]", re.DOTALL)
# The thinking, finished or not, special tokens, and comments. A percent sign makes a comment at the head of a line, or
# right in front of a box; elsewhere it is a percent sign.
_UNSAID = re.compile(
    r"\A.*</think(?:ing)?>|<think(?:ing)?>.*|<\|[a-z_]{1,20}\|>|</s>|<!--.*?(?:-->|\Z)"
    r"|^[ \t]*%[^\n]*|(?<=\s)%[ \t]*(?=\\(?:boxed|fbox))[^\n]*",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_MAX_LINK_CHARS = 120
_MAX_LINK_WORDS = 6
_MAX_PARTS = 12
_HEDGED = frozenset("also or another alternatively maybe perhaps possibly either".split())
_STEPS = frozenset(
    "so thus hence therefore then now next step conclude because since gives get gets means check verify no total "
    "answer simplified simplifies becomes wait actually wrong mistake mistaken error oops sorry recheck correction "
    "corrected better conclusion summary final finally".split()
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
_SUBSCRIPT = re.compile(r"_\{?\w\}?")
_COMPUTED = re.compile(r"[-+*/]\s?[\d\\]|\\(?:times|cdot|div)|[\d}]\s?[-+*/=]")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}([^\s{}$\\,;]{1,99})")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_PHRASE = re.compile(
    r"(?:final\s{1,9}answer(?:\b[^\n:=→]{0,60}?(?:\bis\b\s{0,9}:?|[:=→])|[*#\s]{0,9}\n(?=\s{0,9}\S))"
    r"|(?:\b(?:the|my|our|your)\s{1,9}(?:correct\s{1,9})?)?"
    r"\b(?:answer|correct\s(?:choice|option))\s{0,9}(?:(?:is|equals|would\s{1,9}be|will\s{1,9}be|must\s{1,9}be|comes\s{1,9}(?:out\s{1,9})?to)\b\s{0,9}:?|[:=→])"
    r"|^[#*]{1,6}\s{0,9}answer[*#:]{0,6}[ \t]{0,9}\n(?=\s{0,9}\S)"
    r"|答案(?:是|为|\uff1a|:)|故选)"
    r"(?:\s{0,9}(?:therefore|thus|hence|then|simply|just|clearly)\b,?)?",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(r"<answer>([^<]{0,3000}(?:<(?!/?answer>)[^<]{0,3000}){0,9})</answer>", re.IGNORECASE)
_SENTENCE_END = re.compile(
    r"(?<!\b[ap])(?<!\b[ap]\.m)[.!?](?=\s+[A-Z(*]|\s*$)|(?<=\D)\.(?=\s)|[。\uff1b]|,?\s(?:because|since)\b"
)
_PHRASE_REACH = 600
_READ_CHARS = 1_000_000
_NO_ANSWER = "{} \t\n$"
_MAX_NUMBER_CHARS = 40
_PLAIN = re.compile(r"(?:\\?\$ ?)?(?P<sign>[+-]?)(?P<whole>[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.(?P<places>\d+))?")


@dataclass(frozen=True, slots=True)
class Statement:
    """One place where a reply states an answer."""

    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The statements that say the answer, first to last; `unclear` where they contradict each other."""

    parts: tuple[Statement, ...]
    either: bool = False
    unclear: bool = False

    @property
    def answer(self) -> str:
        """The one answer, or the list of its parts."""
        contents = [unbox(part.content) for part in self.parts]
        return (r"\text{ or }" if self.either else ", ").join(contents)


def sanitise(text: str) -> str:
    """Text without NUL bytes and lone surrogates, so that it can be written as UTF-8."""
    return (
        text if text.isascii() and "\x00" not in text else text.replace("\x00", "").encode("utf-8", "replace").decode()
    )


def final_answer(completion: str) -> tuple[str | None, str]:
    r"""The final answer and "boxed", "tag", "hashes" or "phrase"; or None and "no_", "empty_" or "unclear_answer".

    The last complete box wins (nested braces, `\fbox`, spaces before the brace), then the last <answer> tag, then the
    last "#### n", then the last "final answer is", "answer is" or "answer:". Boxes side by side are one answer with
    several parts, and so are tags and lines. Of a reply of more than a million characters the end is read.
    """
    text = said(sanitise(completion[-_READ_CHARS:]))
    settled, found = _statement(text)
    if settled is None:
        return None, found
    if settled.unclear:
        return None, "unclear_answer"
    answer = settled.answer
    return (answer, found) if answer.strip(_NO_ANSWER) else (None, "empty_answer")


def answer_start(completion: str) -> int | None:
    r"""The start of the final answer's statement; an open box counts; None if there is no statement."""
    text = said(completion)
    settled, _ = _statement(text)
    return open_box(text) if settled is None else settled.parts[0].start


def gold_answer(gold: str) -> str:
    """The answer in a reference: the content of its last boxes, what follows its last "####", or all of it."""
    text = sanitise(gold[-_READ_CHARS:]).strip()
    found = boxes(text)
    if found:
        return settle(text, found).answer
    hashes = _HASHES.findall(text)
    return hashes[-1].strip() if hashes else text


def _statement(text: str) -> tuple[Settled | None, str]:
    """Find the answer's statement and say what it was found by; or None and the reason."""
    found = boxes(text)
    opened = open_box(text)
    if opened is not None and opened >= (found[-1].end if found else 0):
        return None, "no_answer"  # it ends within a box
    if found and not found[-1].content.strip(_NO_ANSWER):  # a mention, if an answer of another form follows it
        later = _statement(" " * found[-1].end + text[found[-1].end :])
        return later if later[0] is not None else (None, "empty_answer")
    if found:
        return settle(text, [box for box in found if box.content.strip(_NO_ANSWER)]), "boxed"
    for pattern, name in ((_BARE_BOX, "boxed"), (_TAG, "tag"), (_HASHES, "hashes")):
        found = [Statement(m.start(), m.end(), m.group(1).strip(" \t\n*$")) for m in pattern.finditer(text)]
        if found:
            return settle(text, found), name
    phrases = [match.span() for match in _PHRASE.finditer(text)]
    if not phrases:
        return None, "no_answer"
    start, end = phrases[-1]
    answer = _after_phrase(text[end : end + _PHRASE_REACH])
    return Settled((Statement(start, end, answer if answer.strip("$ .") else ""),)), "phrase"


def _after_phrase(tail: str) -> str:
    """The answer at the head of what follows "the answer is"."""
    line = tail.lstrip(" \t\n*_\"':=\uff1a").split("\n", 1)[0]
    end = _SENTENCE_END.search(line)
    answer = (line[: end.start()] if end else line).strip(" \t*_\"'")
    return re.sub(r"^\$([^$]*)\$$", r"\1", answer)


# Several boxes


Link = Literal["step", "and", "or", "unclear"]
"""The relation of two boxes, by the text between them: the earlier one is a step on the way to the later one, both are
parts of the answer, both are said to be the answer, or it is not said."""


def said(text: str) -> str:
    """The text with thinking and comments as blanks, so that places stay what they are."""
    if "%" not in text and "<" not in text:
        return text
    return _UNSAID.sub(lambda found: " " * len(found.group()), text)


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
    """The start of the last box, closed or not; None if there is no box."""
    starts = [match.start() for match in _BOX.finditer(text)]
    return starts[-1] if starts else None


def unbox(answer: str) -> str:
    """Remove boxes inside a box."""
    for _ in range(5):
        inner = boxes(answer)
        if not inner:
            break
        last = inner[-1]
        answer = answer[: last.start] + last.content + answer[last.end :]
    return answer.strip()


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
        if statement.content.replace(" ", "") == parts[0].content.replace(" ", ""):
            if len(between) > _MAX_LINK_CHARS:
                break
        elif link == "step":
            break
        elif link == "unclear" or len(parts) == _MAX_PARTS:
            unclear = True
        else:
            parts.insert(0, statement)
            either = either or link == "or"
        start = statement.start
    return Settled(tuple(parts), either, unclear)


def _link(between: str) -> Link:
    if len(between) > _MAX_LINK_CHARS:
        return "step"
    if _NOT_BEFORE.search(between):
        return "unclear"
    words = re.findall(r"[A-Za-z']{2,}", re.sub(r"\\[A-Za-z]+", " ", between).lower())
    steps = _STEPS.intersection(words) or any(len(word) > 5 and word.endswith("ing") for word in words)
    told, hedges = steps or len(words) > _MAX_LINK_WORDS, _HEDGED.intersection(words)
    if hedges if told else hedges - _LIST_WORDS:
        return "unclear"
    if told or _COMPUTED.search(_SUBSCRIPT.sub("", between)):
        return "step"
    is_or = "or" in words or re.search(r"^[^\w\\]*=[^\w\\]*\Z|\\(?:approx|equiv|lor|vee)\b|\bi\.\s?e\.", between)
    return "or" if is_or else "and"


def plain_number(text: str) -> str | None:
    r"""One spelling of a plain decimal number ("$1,200.50" is "1200.5"); None for anything else."""
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    match = _PLAIN.fullmatch(text)
    if match is None or not text.isascii():
        return None
    whole = match["whole"].replace(",", "").lstrip("0") or "0"
    places = (match["places"] or "").rstrip("0")
    value = f"{whole}.{places}" if places else whole
    return f"-{value}" if match["sign"] == "-" and value != "0" else value
