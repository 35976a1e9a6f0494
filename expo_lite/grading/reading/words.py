"""Answers in words: numbers, yes and no, choices, times of day, dates, and the words for "nothing"."""

import re

_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen "
        "eighteen nineteen".split()
    )
} | {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
_LARGE = {"thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
}  # fmt: skip

_YES = frozenset(("yes", "true", "correct"))
_NO = frozenset(("no", "false", "incorrect", "not true"))
_NOTHING = {
    "dne": "does not exist", "does not exist": "does not exist", "doesn't exist": "does not exist",
    "no limit": "does not exist", "limit does not exist": "does not exist", "undefined": "undefined",
    "not defined": "undefined", "no solution": "no solution", "no solutions": "no solution", 
    r"\emptyset": "no solution",
    r"\{\}": "no solution", r"\{ \}": "no solution", "empty set": "no solution", "the empty set": "no solution",
    "no real solution": "no real solution", "no real solutions": "no real solution", "infinity": r"\infty",
    r"+\infty": r"\infty", "+infinity": r"\infty", "positive infinity": r"\infty", "inf": r"\infty", "oo": r"\infty",
    "-infinity": r"-\infty", "negative infinity": r"-\infty", "-inf": r"-\infty", "minus infinity": r"-\infty",
    "all real numbers": r"\R", "all reals": r"\R", "the real numbers": r"\R", "all real x": r"\R", "reals": r"\R",
    r"\infty": r"\infty", r"-\infty": r"-\infty", r"\r": r"\R", "infinitely many": "infinitely many",
    "infinitely many solutions": "infinitely many",
}  # fmt: skip

_NO_SOLUTION = re.compile(
    r"^(?:there (?:is|are|exists?) |(?:the |this )?(?:equation|system|inequality|problem"
    r"|it)s? has )?no (?:real )?solutions?(?: exists?)?$"
)
_CHOICE = re.compile(
    r"^(?:\\text\{\s?)?(?i:(?:the )?(?:answer choice|option|choice|letter|(?:correct )?answer)(?: is)?:? ?)?"
    r"(?:\((?P<round>[A-J])\)|\[(?P<square>[A-J])\]|(?P<bare>[A-J])(?P<mark>[).:]|(?=\s?\}?$)))"
    r"(?:\s?\})?[\s.:,)]*(?P<rest>.*)$",
    re.DOTALL,
)
_IS_RIGHT = re.compile(
    r"^(?:is|was) (?:the )?(?:correct|right|answer)(?: (?:answer|choice|option|one))?[.!]?$", re.IGNORECASE
)
# What makes of "(A) ..." more than one choice, or none.
_DOUBTED = re.compile(
    r"^(?:\\text\{ ?)?(?:[,;/&]|(?:or|and|but|nor|not|is|isn't|was|wasn't|are|would|could|might|may|maybe"
    r"|perhaps|probably|if|unless|"
    r"except|wrong|incorrect|false|instead|rather)\b)|(?<![A-Za-z])[(\[]?[A-J][)\]](?![A-Za-z])",
    re.IGNORECASE,
)
_CONTRARY = {
    True: frozenset("no not false incorrect but however maybe or sometimes except unless perhaps wrong if nor".split()),
    False: frozenset("yes true correct but however maybe or sometimes except unless perhaps right if".split()),
}
_REASON = re.compile(r"^[\s,;:.]*(?:because|since|as|for)\b")
_LOWER_CHOICE = re.compile(r"^(?:\\text\{)?\(([a-j])\)\}?$")
_TIME = re.compile(
    r"^(?:\\text\{)?(\d{1,2})(?::(\d{2}))?(?::(\d{2}))? ?(?:\\text\{)? ?([ap])\.? ?m\.? ?\}?$|^(\d{1,2}):(\d{2})$",
    re.IGNORECASE,
)
_HALF_OF_DAY = re.compile(r"(?: o'clock)? ?(?:in the (morning|afternoon|evening)|at (night))$", re.IGNORECASE)
_NAMED_TIMES = {"noon": "12:00 pm", "12 noon": "12:00 pm", "midnight": "12:00 am", "12 midnight": "12:00 am"}
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATES = [
    re.compile(rf"^{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year>\d{{4}}))?$", re.IGNORECASE),
    re.compile(
        rf"^(?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? (?P<year>\d{{4}}))?$", re.IGNORECASE
    ),
]
_ISO_DATE = re.compile(r"^(\d{4})-(\d{2})-(\d{2})$")


def plain(normalised: str) -> str:
    """The answer as lower-case words, out of any text command."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", normalised)
    return re.sub(r"\s+", " ", text).strip(" .!").lower()


def yes_no(normalised: str) -> bool | None:
    """What a yes or no says, alone or with a reason behind it; None for anything else, such as "yes, but no"."""
    head, mark, rest = _split_off(plain(normalised))
    said = True if head in _YES else False if head in _NO else None
    if said is None or not mark or _REASON.match(rest):
        return said
    words = set(re.findall(r"[a-z]+", rest.replace("n't", " not")))
    return None if _CONTRARY[said] & words else said


def _split_off(text: str) -> tuple[str, str, str]:
    """A text before and after its first punctuation mark, and the mark."""
    found = re.search(r"[,;.:!]", text)
    return (text, "", "") if found is None else (text[: found.start()].strip(), found.group(), text[found.end() :])


def nothing(normalised: str) -> str | None:
    """One name for each way to say that there is no answer, infinity, or everything."""
    text = plain(normalised)
    if _NO_SOLUTION.match(text):
        return "no real solution" if "real" in text else "no solution"
    return _NOTHING.get(text)


def choice(normalised: str) -> tuple[str, str] | None:
    """Letter and text of a multiple choice answer such as "(B) 12"; None for anything else, such as "(A) or (B)"."""
    lower = _LOWER_CHOICE.match(normalised)
    if lower is not None:
        return lower.group(1).upper(), ""
    match = _CHOICE.match(normalised)
    if match is None or len(normalised) > 400:
        return None
    letter = match.group("round") or match.group("square") or match.group("bare")
    rest = match.group("rest").strip()
    if _IS_RIGHT.match(plain(rest)):
        return letter, ""
    return None if _DOUBTED.search(rest) else (letter, rest)


def time_of_day(normalised: str) -> tuple[int, str] | None:
    """Minutes and "am", "pm" or "" of a time of day."""
    if "in the" in normalised or "at night" in normalised:
        normalised = plain(normalised)
    normalised = _HALF_OF_DAY.sub(lambda found: " am" if found.group(1).lower() == "morning" else " pm", normalised)
    match = _TIME.match(_NAMED_TIMES.get(plain(normalised), normalised))
    if match is None:
        return None
    hour, minute = int(match.group(1) or match.group(5)), int(match.group(2) or match.group(6) or 0)
    half = (match.group(4) or "").lower()
    if hour > 24 or minute > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        return (hour % 12 + (12 if half == "p" else 0)) * 60 + minute, half + "m"
    return hour * 60 + minute, ""


def same_time(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Whether two times agree; 3:00 may stand for 3:00 PM."""
    if one[0] == other[0] or bool(one[1]) == bool(other[1]):
        return one[0] == other[0]
    bare, full = (other, one) if one[1] else (one, other)
    return bare[0] < 780 and bare[0] % 720 == full[0] % 720


def same_date(one: tuple[int | None, int, int], other: tuple[int | None, int, int]) -> bool:
    """Whether two dates agree; one of them may leave its year out."""
    return one[1:] == other[1:] and (one[0] == other[0] or None in (one[0], other[0]))


def date(normalised: str) -> tuple[int | None, int, int] | None:
    """Year (None if not given), month and day."""
    text = plain(normalised)
    iso = _ISO_DATE.match(text)
    if iso is not None:
        return int(iso.group(1)), int(iso.group(2)), int(iso.group(3))
    for pattern in _DATES:
        match = pattern.match(text)
        if match is not None:
            year = match.group("year")
            return (
                int(year) if year else None,
                _MONTHS.index(match.group("month").lower()[:3]) + 1,
                int(match.group("day")),
            )
    return None


def digits_for_words(normalised: str) -> str:
    """The answer with a number in words at its head written in digits: "twenty-one apples" is "21 apples"."""
    text = plain(normalised)
    if not text[:1].isalpha():
        return normalised
    tokens = re.findall(r"[a-z]+|\S", text.replace("-", " "))
    if tokens[0] in ("minus", "negative") and len(tokens) > 1:
        positive = " ".join(tokens[1:])
        inner = digits_for_words(positive)
        return f"-{inner}" if inner != positive else normalised
    if text in ("half", "a half"):
        return "1/2"
    value, used = _read_number(tokens)
    if used == 0:
        return normalised
    rest = tokens[used:]
    if rest[:1] and rest[0].rstrip("s") in _PARTS and (used or rest[0] == "half"):
        return " ".join([f"{value}/{_PARTS[rest[0].rstrip('s')]}", *rest[1:]])
    if rest[:3] == ["and", "a", "half"]:
        return " ".join([f"{2 * value + 1}/2", *rest[3:]])
    return " ".join([str(value), *rest])


def _read_number(tokens: list[str]) -> tuple[int, int]:
    """The number that the first words say, and how many words that takes."""
    total = current = used = 0
    if tokens[:2] == ["a", "dozen"]:
        return 12, 2
    if tokens[:1] == ["half"]:
        return 1, 0
    index = 1 if tokens[:2] in (["a", "hundred"], ["a", "thousand"], ["a", "million"]) else 0
    current = index
    for token in tokens[index:]:
        if token in _SMALL:
            if used and current % 10 and current % 100 != 0:
                break
            current += _SMALL[token]
        elif token == "hundred" and 0 < current < 100:
            current *= 100
        elif token in _LARGE and current:
            total, current = total + current * _LARGE[token], 0
        elif token != "and" or tokens[index - 1 : index] != ["hundred"] or tokens[index + 1 : index + 2] == ["a"]:
            break
        index += 1
        used = index
    return total + current, used
