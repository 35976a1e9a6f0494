"""The final answer of a completion: the last complete box, else the usual phrases, else nothing and why."""

import re

from expo_lite.grading.units import lookup

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?=\{)")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}([^\s{}$\\,;]{1,99})")
_SCAN = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,99}\{|\\(?:[A-Za-z]+|.)|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_PHRASE = re.compile(
    r"(?:final\s+answer(?:\b[^\n:=]{0,60}?(?:\bis\b\s*:?|:|=)|[*#\s]{0,9}\n(?=\s{0,9}\S))|\bthe\s+(?:correct\s+)?answer\s+(?:is\b\s*:?|:)|\banswer\s*:)",
    re.IGNORECASE,
)
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$((?:\\\$|[^$\n])+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<!\b[ap])(?<!\b[ap]\.m)[.!?](?=\s+[A-Z(*]|\s*$)|(?<=\D)\.(?=\s)")
_LINK = re.compile(
    r"(?:[\s$,;.&]|\\[()\[\],;!: ]|\\q?quad|\\(?:text|mathrm|mbox)\s*\{[^{}]{0,40}\}|[A-Za-z()_=]+){0,12}", re.ASCII
)
_UNIT_BEHIND = re.compile(r"\s*(%|[A-Za-z]{2,12})(?![A-Za-z])")
_PHRASE_REACH = 600


def sanitise(text: str) -> str:
    """Text without NUL bytes and lone surrogates, so that it can be written as UTF-8."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def boxes(text: str) -> list[tuple[int, int, str]]:
    """The complete outermost boxes as (start, end, content), in order; linear in the length of the text."""
    found: list[tuple[int, int, str]] = []
    if not _BOX.search(text):
        return found
    open_braces: list[tuple[int, int] | None] = []
    for match in _SCAN.finditer(text):
        token = match.group()
        if token == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                start, content_start = opened
                while found and found[-1][0] >= start:
                    found.pop()
                found.append((start, match.end(), text[content_start : match.start()]))
        elif token == "{":
            open_braces.append(None)
        elif token.endswith("{") and len(token) > 2:
            open_braces.append((match.start(), match.end()))
    return found


def _unbox(answer: str) -> str:
    for _ in range(5):
        inner = boxes(answer)
        if not inner:
            break
        start, end, content = inner[-1]
        answer = answer[:start] + content + answer[end:]
    return answer.strip()


def joined_boxes(text: str) -> str | None:
    r"""The answers of the last boxes that stand side by side ("\boxed{1} and \boxed{-2}") as a list, or None."""
    found = boxes(text)
    joined = found[-1:]
    for box in reversed(found[:-1]):
        between = text[box[1] : joined[0][0]]
        if len(between) > 120 or not _LINK.fullmatch(between) or len(re.findall(r"\w+", between)) > 6:
            break
        joined.insert(0, box)
    if not 1 < len(joined) <= 12:
        return None
    return ", ".join(_unbox(content) for _, _, content in joined)


def _after_phrase(tail: str) -> str:
    """The answer at the head of what follows "the answer is"."""
    head = tail.lstrip(" \t*_\"':=")
    if head.startswith("\n"):
        head = head.lstrip("\n \t*_\"':")
    math = _MATH_SPAN.match(head)
    if math is not None:
        rest = head[math.end() :].split("\n", 1)[0]
        unit = _UNIT_BEHIND.match(rest)
        inner = next(group for group in math.groups() if group is not None)
        return inner + (" " + unit.group(1) if unit and (unit.group(1) == "%" or lookup(unit.group(1))) else "")
    line = head.split("\n", 1)[0]
    end = _SENTENCE_END.search(line)
    return (line[: end.start()] if end else line).strip(" \t*_\"'")


def final_answer(completion: str) -> tuple[str | None, str]:
    r"""The final answer and "boxed", "hashes" or "phrase"; or None with "no_answer" or "empty_answer".

    The last complete box wins (nested braces, `\fbox`, spaces before the brace), then the last "#### n", then the last
    "final answer is", "the answer is" or "answer:".
    """
    text = sanitise(completion)
    found = boxes(text)
    if found:
        answer = _unbox(found[-1][2])
        return (answer, "boxed") if answer.strip("{} \t\n$") else (None, "empty_answer")
    bare = _BARE_BOX.findall(text)
    if bare:
        return bare[-1], "boxed"
    hashes = _HASHES.findall(text)
    if hashes:
        answer = hashes[-1].strip(" \t*$")
        return (answer, "hashes") if answer else (None, "empty_answer")
    phrases = [phrase.end() for phrase in _PHRASE.finditer(text)]
    if not phrases:
        return None, "no_answer"
    answer = _after_phrase(text[phrases[-1] : phrases[-1] + _PHRASE_REACH])
    return (answer, "phrase") if answer.strip("$ .") else (None, "empty_answer")


def answer_start(completion: str) -> int | None:
    r"""Where the statement of the final answer begins, in characters; a box that is not closed counts; None without any."""
    found = boxes(completion)
    starts = [found[-1][0]] if found else [match.start() for match in _BOX.finditer(completion)]
    for pattern in (_BARE_BOX, _HASHES, _PHRASE):
        starts = starts or [match.start() for match in pattern.finditer(completion)]
    return starts[-1] if starts else None


def gold_answer(gold: str) -> str:
    """The answer in a reference: the content of its last box, what follows its last "####", or all of it."""
    text = sanitise(gold).strip()
    found = boxes(text)
    if found:
        answers = joined_boxes(text)
        return answers if answers is not None else _unbox(found[-1][2])
    hashes = _HASHES.findall(text)
    return hashes[-1].strip() if hashes else text
