"""Answers of a known form: choices, nothing, yes and no, times, numbers in a base, ratios, number words."""

import contextlib
import re
from datetime import datetime
from fractions import Fraction

from expo_lite.grading.comparing import Result, Scope
from expo_lite.grading.comparing.leaves import quantity

_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
}  # fmt: skip

_NOTHING = {
    "dne": "does not exist", "does not exist": "does not exist", "doesn't exist": "does not exist",
    "no limit": "does not exist", "limit does not exist": "does not exist", "undefined": "undefined",
    "not defined": "undefined", "no solution": "no solution", "no solutions": "no solution", r"\{\}": "no solution",
    r"\emptyset": "no solution", r"\{ \}": "no solution", "empty set": "no solution", "the empty set": "no solution",
    "no real solution": "no real solution", "no real solutions": "no real solution", "infinity": r"\infty",
    r"+\infty": r"\infty", "+infinity": r"\infty", "positive infinity": r"\infty", "inf": r"\infty", "oo": r"\infty",
    "-infinity": r"-\infty", "negative infinity": r"-\infty", "-inf": r"-\infty", "minus infinity": r"-\infty",
    "all real numbers": r"\R", "all reals": r"\R", "the real numbers": r"\R", "all real x": r"\R", "reals": r"\R",
    r"\infty": r"\infty", r"-\infty": r"-\infty", r"\r": r"\R", "infinitely many": "infinitely many",
    "infinitely many solutions": "infinitely many", "yes": "yes", "true": "yes", "no": "no", "false": "no",
}  # fmt: skip

_CHOICE = re.compile(
    r"^(?:\\text\{\s?)?(?i:(?:the )?(?:answer choice|option|choice|letter|(?:correct )?answer)(?: is)?:? ?)?"
    r"(?:\((?P<round>[A-J])\)|\[(?P<square>[A-J])\]|(?P<bare>[A-J])(?P<mark>[).:]|(?=\s?\}?$)))"
    r"(?:\s?\})?[\s.:,)]*(?P<rest>.*)$",
    re.DOTALL,
)
# Words after a letter that make more than one choice of it, or none.
_DOUBTED = re.compile(
    r"^(?:\\text\{ ?)?(?:[,;/&]|(?:or|and|but|nor|not|is|isn't|was|wasn't|are|would|could|might|may|maybe"
    r"|perhaps|probably|if|unless|"
    r"except|wrong|incorrect|false|instead|rather)\b)|(?<![A-Za-z])[(\[]?[A-J][)\]](?![A-Za-z])",
    re.IGNORECASE,
)
_TIMES = ("%I:%M%p", "%I%p", "%I:%M:%S%p", "%H:%M", "%H:%M:00")
_IN_BASE = re.compile(
    r"^\(?(?:\\text\{)?(?P<digits>-?[0-9A-Fa-f ]+(?:\.[0-9A-F]+)?)\}?\)?"
    r"(?:_ ?\{? ?(?:\\text\{ ?)?\(?(?P<low>\d{1,2}|[a-z]+)\)?(?: ?\})*"
    r"| ?\(?(?:\\text\{ ?\(?)?(?:in )?base[ -]?(?:\})? ?(?:\{)?(?P<word>\d{1,2}|[a-z]+)\)?\}?\)?)$"
)
_RATIO = re.compile(r"^(?:\d+(?:\.\d+)?)(?: ?: ?\d+(?:\.\d+)?)+$")

_POINT = re.compile(
    r"^(?:([A-Z]'?) ?"
    r"|(?:\\text\{ ?)?(?i:the )?(?i:point|vertex|cent(?:er|re)|focus|(?:ordered )?pair|vector|coordinates)"
    r"(?: at)? ?(?:[A-Z] ?)?\}? ?)(?=\([^()]*,.*\)$)"
)


def plain(normalised: str) -> str:
    """The answer as lower-case words, out of any text command."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", normalised)
    return re.sub(r"\s+", " ", text).strip(" .!").lower()


def nothing(normalised: str) -> str | None:
    """Name each way to say that there is no answer, infinity, everything, yes or no."""
    return _NOTHING.get(plain(normalised))


def _choice(normalised: str) -> tuple[str, str] | None:
    """Read a multiple choice answer such as "(B) 12" as letter and text; None for others, such as "(A) or (B)"."""
    match = _CHOICE.match(normalised)
    if match is None or len(normalised) > 400:
        return None
    letter = match.group("round") or match.group("square") or match.group("bare")
    rest = match.group("rest").strip()
    return None if _DOUBTED.search(rest) else (letter, rest)


def compare_choices(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare the letters of a multiple choice; where only one side has one, compare the text after it."""
    wanted, given = _choice(gold), _choice(answer)
    if wanted is not None and wanted[1] == "" and answer.strip("()") == wanted[0].lower() and answer != "e":
        return True, "choice"
    if wanted is not None and given is not None:
        texts_fit = not (wanted[1] and given[1]) or scope.equal(wanted[1], given[1])
        return wanted[0] == given[0] and texts_fit, "choice"
    if wanted is not None and wanted[1]:
        return scope.equal(wanted[1], answer), "choice"
    return (scope.equal(gold, given[1]), "choice") if given is not None and given[1] else None


def _time_of_day(normalised: str) -> datetime | None:
    """Read a time of day, in twelve hours or in 24."""
    text = re.sub(r"[ .]", "", plain(normalised))
    for form in _TIMES if re.fullmatch(r"\d\d?(:\d\d)*([ap]m)?", text) else ():
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, form)
    return None


def compare_nothing(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare two answers such as "no solution", "undefined", infinity or "yes"."""
    wanted, given = nothing(gold), nothing(answer)
    return None if wanted is None or given is None else (wanted == given, "named_answer")


def compare_times(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare two times of day."""
    wanted, given = _time_of_day(gold), _time_of_day(answer)
    return None if wanted is None or given is None else (wanted == given, "time")


def _number_in_base(text: str) -> tuple[str, int] | None:
    r"""Digits (no leading zeros) and base of 204_5, 204_{\text{five}} or 204 (base 5)."""
    match = _IN_BASE.match(text)
    if match is None:
        return None
    base = match.group("low") or match.group("word")
    number = _SMALL.get(base) if base.isalpha() else int(base)
    digits = match.group("digits").replace(" ", "").upper()
    if number is None or not 2 <= number <= 36 or any(int(digit, 36) >= number for digit in re.sub("[-.]", "", digits)):
        return None  # a_{10} is the tenth of some numbers
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return sign + (digits.lstrip("0") or "0"), number


def compare_bases(gold: str, answer: str, scope: Scope) -> Result | None:
    """Numbers in the same base with the same digits; a bare number is in base ten."""
    wanted, given = _number_in_base(gold), _number_in_base(answer)
    if wanted is None and given is None:
        return None
    bare = [found[0] if found and found[1] == 10 else text for found, text in ((wanted, gold), (given, answer))]
    return (scope.equal(*bare) if bare != [gold, answer] else wanted == given), "base"


def _ratio(text: str) -> tuple[Fraction, ...] | None:
    return tuple(Fraction(part.strip()) for part in text.split(":")) if _RATIO.match(text) else None


def compare_ratios(gold: str, answer: str, scope: Scope) -> Result | None:
    """Compare two ratios, or a ratio with a number."""
    texts = [re.sub(r" ?\\text\{ ?(?:to|is to) ?\} ?|(?<=\d) to (?=\d)", ":", text) for text in (gold, answer)]
    wanted, given = _ratio(texts[0]), _ratio(texts[1])
    if wanted is None and given is None:
        return None
    if wanted is not None and _time_of_day(gold) is not None:
        return wanted == given, "time"
    if wanted is not None and given is not None:
        equal = len(wanted) == len(given) and all(
            a * given[0] == b * wanted[0] for a, b in zip(wanted, given, strict=True)
        )
        return equal and any(wanted) and any(given), "ratio"
    ratio, text = (wanted, texts[1]) if wanted is not None else (given, texts[0])
    value = quantity(text).value
    if ratio is None or value is None:
        return None
    return len(ratio) == 2 and ratio[1] not in (0, 1) and ratio[0] / ratio[1] == value, "ratio"


def bare_point(normalised: str) -> str:
    """Write "the point (3, 4)" as the pair, and "P(3, 4)" with the sign that a name has elsewhere."""
    return _POINT.sub(lambda found: f"{found[1]}=" if found[1] else "", normalised)


def digits_for_words(normalised: str) -> str:
    """The answer with a number below 100 in words at its head in digits: "twenty-one apples" is "21 apples"."""
    head, *rest = re.findall(r"[a-z]+|\S", plain(normalised).replace("-", " ")) or [""]
    value = _SMALL.get(head, 0)
    if value >= 20 and rest and _SMALL.get(rest[0], 10) < 10:
        value += _SMALL[rest.pop(0)]
    if head not in _SMALL or not _SMALL.keys().isdisjoint(rest):
        return normalised
    if rest and rest[0].rstrip("s") in _PARTS:
        return " ".join([f"{value}/{_PARTS[rest[0].rstrip('s')]}", *rest[1:]])
    return " ".join([str(value), *rest])
