"""The final answer of a completion: the last complete boxes, else the usual phrases, else nothing and why.

Here, in the caller's own thread, every pattern is linear: the only long stretches are runs of one class of characters
that what follows them cannot be part of.
"""

import re

from expo_lite.grading.reading.boxes import Settled, Statement, boxes, open_box, settle, unbox, without_comments
from expo_lite.grading.reading.unit_names import lookup

_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}([^\s{}$\\,;]{1,99})")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_PHRASE = re.compile(
    r"(?:final\s{1,9}answer(?:\b[^\n:=→]{0,60}?(?:\bis\b\s{0,9}:?|[:=→])|[*#\s]{0,9}\n(?=\s{0,9}\S))"
    r"|(?:\b(?:the|my|our|your)\s{1,9}(?:correct\s{1,9})?)?"
    r"\banswer\s{0,9}(?:(?:is|equals|would\s{1,9}be|will\s{1,9}be|must\s{1,9}be|comes\s{1,9}(?:out\s{1,9})?to)\b\s{0,9}:?|[:=→])"
    r"|^[#*]{1,6}\s{0,9}answer[*#:]{0,6}[ \t]{0,9}\n(?=\s{0,9}\S))"
    r"(?:\s{0,9}(?:therefore|thus|hence|then|simply|just|clearly)\b,?)?",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(r"<answer>([^<]{0,3000})(?:<(?!/?answer>)[^<]{0,3000}){0,9}</answer>", re.IGNORECASE)
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$((?:\\\$|[^$\n])+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<!\b[ap])(?<!\b[ap]\.m)[.!?](?=\s+[A-Z(*]|\s*$)|(?<=\D)\.(?=\s)")
_UNIT_BEHIND = re.compile(r"\s*(%|[A-Za-z]{2,12})(?![A-Za-z])")
_GOES_ON = re.compile(r",?\s*(?:or|and|but|not|instead|rather|nor)\b|,\s*\$", re.IGNORECASE)
_PHRASE_REACH = 600
_READ_CHARS = 1_000_000
_NO_ANSWER = "{} \t\n$"


def sanitise(text: str) -> str:
    """Text without NUL bytes and lone surrogates, so that it can be written as UTF-8."""
    return (
        text if text.isascii() and "\x00" not in text else text.replace("\x00", "").encode("utf-8", "replace").decode()
    )


def final_answer(completion: str) -> tuple[str | None, str]:
    r"""The final answer and "boxed", "tag", "hashes" or "phrase"; or None and "no_", "empty_" or "unclear_answer".

    The last complete box wins (nested braces, `\fbox`, spaces before the brace), then the last <answer> tag, then the
    last "#### n", then the last "final answer is", "answer is" or "answer:". Boxes side by side are one answer with
    several parts. Of a reply of more than a million characters the end is read.
    """
    text = without_comments(sanitise(completion[-_READ_CHARS:]))
    settled, found = _statement(text)
    if settled is None:
        return None, found
    if settled.unclear:
        return None, "unclear_answer"
    answer = settled.answer
    return (answer, found) if answer.strip(_NO_ANSWER) else (None, "empty_answer")


def answer_start(completion: str) -> int | None:
    r"""Where the statement of the final answer begins; a box that is not closed counts; None without any."""
    text = without_comments(completion)
    settled, _ = _statement(text)
    if settled is not None and boxes(text):
        return settled.start
    opened = open_box(text)
    return opened if opened is not None else None if settled is None else settled.start


def gold_answer(gold: str) -> str:
    """The answer in a reference: the content of its last boxes, what follows its last "####", or all of it."""
    text = sanitise(gold[-_READ_CHARS:]).strip()
    found = boxes(text)
    if found:
        settled = settle(text, found)
        return unbox(found[-1].content) if settled.unclear else settled.answer
    hashes = _HASHES.findall(text)
    return hashes[-1].strip() if hashes else text


def _statement(text: str) -> tuple[Settled | None, str]:
    """Where the answer stands and by what it was found; or None and why there is none."""
    found = boxes(text)
    if found:
        return settle(text, found), "boxed"
    bare = [Statement(m.start(), m.end(), m.group(1)) for m in _BARE_BOX.finditer(text)]
    if bare:
        return settle(text, bare), "boxed"
    tags = [Statement(m.start(), m.end(), m.group()[8:-9].strip()) for m in _TAG.finditer(text)] if "<" in text else []
    if tags:
        return settle(text, tags), "tag"
    lines = [Statement(m.start(), m.end(), m.group(1).strip(" \t*$")) for m in _HASHES.finditer(text)]
    if lines:
        return _last_line(text, lines), "hashes"
    phrases = [match.span() for match in _PHRASE.finditer(text)]
    if not phrases:
        return None, "no_answer"
    start, end = phrases[-1]
    answer = _after_phrase(text[end : end + _PHRASE_REACH])
    return Settled((Statement(start, end, answer if answer.strip("$ .") else ""),)), "phrase"


def _last_line(text: str, lines: list[Statement]) -> Settled:
    """The last line of "#### n"; unclear where another one with another answer stands right above it."""
    last = lines[-1]
    above = lines[-2] if len(lines) > 1 else last
    joined = above.content != last.content and not text[above.end : last.start].strip()
    return Settled((last,), unclear=joined)


def _after_phrase(tail: str) -> str:
    """The answer at the head of what follows "the answer is"."""
    head = tail.lstrip(" \t*_\"':=")
    if head.startswith("\n"):
        head = head.lstrip("\n \t*_\"':")
    math = _MATH_SPAN.match(head)
    rest = "" if math is None else head[math.end() :].split("\n", 1)[0]
    if math is not None and not _GOES_ON.match(rest.lstrip()):
        unit = _UNIT_BEHIND.match(rest)
        inner = next(group for group in math.groups() if group is not None)
        return inner + (" " + unit.group(1) if unit and (unit.group(1) == "%" or lookup(unit.group(1))) else "")
    line = head.split("\n", 1)[0]
    end = _SENTENCE_END.search(line)
    return (line[: end.start()] if end else line).strip(" \t*_\"'")
