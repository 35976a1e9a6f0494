"""Units at the end of an answer: what they measure, and how many of the base unit they are."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from expo_lite.grading.reading.unit_names import CASED, COMPOUND, lookup

_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_IGNORED = frozenset(
    "of the a an total in all only exactly each altogether whole full approximately about long old tall away wide "
    "different distinct possible left remaining is more so".split()
)
_BLOCKED = frozenset(
    "or and less than least most fewer not no if where when to between except over under for with but mod modulo "
    "base nor neither unless otherwise plus minus times divided half undefined infinity infinitely nothing none other "
    "larger smaller greater bigger lower higher negative positive even odd prime by from until "
    "such that any every some is are was be am pm noon midnight c k n x y z "
    # What makes another number of the one before it, or says what is thought of it.
    "squared cubed factorial root permille permil permill promille mille basis doubled tripled halved quadrupled "
    "lakh crore gross "
    "power choose fold ish times root log above below off short beyond versus vs instead rather wrong incorrect "
    "false true "
    "invalid untrue maybe perhaps probably possibly guess nearly almost never sometimes unknown error mistake "
    "impossible yes nope".split()
)
_PARTS = re.compile(
    r"(?:half|halve|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|twelfth|hundredth|thousandth|millionth|percentile|inverse|"
    r"reciprocal)s?"
)
_FUNCTION_NAMES = frozenset(
    "sin cos tan cot csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt gcd lcm max pi det lim mod abs "
    "floor ceil binom infty alpha beta gamma theta lambda".split()
)
_TOKEN = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-zµΩ]+\.?|\d+|\s+|.", re.DOTALL)
_NO_UNIT = re.compile(r"[=<>()\[\]?!:;*+&]")
_SIGNS = frozenset(("%", "$", "€", "£", "¥", "₹", "¢", r"\degree"))
_UNIT_FRACTION = re.compile(r"\\frac ?\{ ?(\\text\{[^{}]*\}) ?\}\{ ?(\\text\{[^{}]*\}(?:\^ ?\{?\d\}?)?) ?\}")
_PREFIX = re.compile(r"^([+-]?)\s?(?:US|CA|AU)?(\$|€|£|¥|₹|USD|EUR|Rs\.?)\s?(?=[\d.\\({+-])")


@dataclass(frozen=True, slots=True)
class Unit:
    """What stands behind a number.

    `dimensions` are powers of kinds of quantity, `factor` turns the number into base units, `scale` is a number word
    such as million, `words` are those that no table knows ("apples").
    """

    dimensions: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)
    scale: int = 1
    words: frozenset[str] = frozenset()
    percent: bool = False

    @property
    def empty(self) -> bool:
        """Whether it says nothing that could differ."""
        return not (self.dimensions or self.words or self.percent)

    def fits(self, other: "Unit") -> bool:
        """Whether numbers with these units can be compared; one side may leave its unit out."""
        if self.percent or other.percent:
            return not (self.dimensions or other.dimensions or self.words or other.words)
        if self.empty or other.empty:
            return True
        if self.dimensions or other.dimensions:
            return self.dimensions == other.dimensions
        return self.words <= other.words or other.words <= self.words


def split_unit(text: str) -> tuple[str, Unit]:
    """The answer without its unit, and the unit."""
    prefix = _PREFIX.match(text)
    unit = Unit()
    if prefix is not None:
        unit = _unit_of([prefix.group(2).rstrip(".")]) or unit
        text = prefix.group(1) + text[prefix.end() :]
    text = re.sub(r"\\degree ?(?:\\text\{ ?)?([CF])\b ?\}?", r"\\text{°\1}", text)
    text = re.sub(r"(?<=\d) ?\\Omega", r"\\text{ ohm}", _UNIT_FRACTION.sub(r"\1/\2", text))
    tokens = _TOKEN.findall(text[-200:])
    start = _tail_start(tokens)
    core = text[: len(text) - sum(map(len, tokens[start:]))]
    if start == len(tokens) or not core.strip(" +-"):
        return text, unit
    tail = _unit_of(tokens[start:])
    if tail is None or (tail.words and not re.search(r"[\d\\]", core)):
        return text, unit
    if not unit.empty:
        # $3 per hour has its unit on both sides of the number; $3 dollars says it twice.
        money = () if tail.dimensions == unit.dimensions else unit.dimensions
        tail = replace(tail, dimensions=tuple(sorted(tail.dimensions + money)))
    return core.strip(), tail


def _tail_start(tokens: list[str]) -> int:
    """Where the run of unit-like tokens at the end begins; len(tokens) if there is none."""
    start = index = len(tokens)
    while index > 0:
        token = tokens[index - 1]
        if token.isspace() or token in ("/", r"\cdot", "."):
            index -= 1
        elif token in _SIGNS or _is_unit_word(tokens, index - 1):
            index -= 1
            start = index
        else:
            behind_power = _power_start(tokens, index)
            if behind_power is None:
                break
            index = behind_power
    return start


def _power_start(tokens: list[str], end: int) -> int | None:
    """Where the exponent that ends before `end` begins ("^2", "^{-1}"), if a unit word stands before it."""
    match = re.search(r"\^\s?(?:\d|\{-?\d\})\s?$", "".join(tokens[max(0, end - 6) : end]))
    if match is None:
        return None
    start, length = end, len(match.group())
    while length > 0:
        start -= 1
        length -= len(tokens[start])
    before = start - 1
    while before >= 0 and tokens[before].isspace():
        before -= 1
    return start if before >= 0 and _is_unit_word(tokens, before) else None


def _is_unit_word(tokens: list[str], index: int) -> bool:
    token = tokens[index]
    if token.startswith(r"\text{"):
        words = re.findall(r"[^\W\d]+", re.sub("°[cCfF]", "", token[6:-1]))
        return all(not _is_blocked(word) or word in CASED for word in words) and not _NO_UNIT.search(token[6:-1])
    if not token[:1].isalpha():
        return False
    word = token.rstrip(".")
    if len(word) == 1:
        return _is_unit_letter(tokens, index, word)
    lowered = word.lower()
    if _is_blocked(word) or lowered in _FUNCTION_NAMES:
        return lowered in ("squared", "cubed") and index > 1 and lookup(tokens[index - 2].rstrip(".")) is not None
    if lookup(word) is not None or lowered in _POWERS or lowered in _MULTIPLIERS or lowered in COMPOUND:
        return True
    spaced = index > 0 and tokens[index - 1].isspace()
    return lowered in ("per", "of", "in", "each", "all") or (spaced and len(word) >= 3 and word.isascii())


def _is_blocked(word: str) -> bool:
    """Whether a word behind a number is no noun and no unit."""
    return word.lower() in _BLOCKED or _PARTS.fullmatch(word.lower()) is not None


def _is_unit_letter(tokens: list[str], index: int, letter: str) -> bool:
    """Whether a single letter is a unit: behind "/" and a unit, or behind a space, a number and perhaps other units."""
    if index > 1 and tokens[index - 1] == "/":
        return _is_unit_word(tokens, index - 2) or tokens[index - 2] == "$"
    if letter == "m" and "^" in tokens[index + 1 : index + 2]:  # 12.50m^2 is an area, 4m^2 may be algebra
        return re.fullmatch(r"[\d,]*\.\d+ ?|[\d,]+ ", "".join(tokens[:index])) is not None
    if letter not in CASED and letter not in "mgshl":
        return False
    return re.fullmatch(r"[\d.,\s/eE+-]*\d [A-Za-z ]*", "".join(tokens[:index])) is not None


def _words(tokens: list[str]) -> list[str]:
    text = "".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", token) for token in tokens)
    text = re.sub(r"\\degree\s?([CF])\b", r" °\1 ", text).replace(r"\degree", " ° ").replace(r"\cdot", " ")
    text = re.sub(r"°\s?(?:degrees? )?([Cc]|[Ff])(?:elsius|ahrenheit)?\b", r"°\1", text)
    text = re.sub(r"\bper\b", "/", re.sub(r"\bdegrees? (celsius|fahrenheit)\b", r"\1", text, flags=re.IGNORECASE))
    return re.findall(r"[^\W\d_]+(?:'s)?|°[cCfF]?|[$€£¥₹¢%/]|\^\s?\{?-?\d|\d+", text)


def _unit_of(tokens: list[str]) -> Unit | None:
    words = [part for word in _words(tokens) for part in COMPOUND.get(word.lower(), word).split()]
    if words.count("%") > 1:
        return None
    dimensions: dict[str, int] = {}
    factor, scale, sign, power = Fraction(1), 1, 1, 1
    unknown: set[str] = set()
    index = 0
    while index < len(words):
        word, index = words[index], index + 1
        lowered = word.lower()
        known = lookup(word)
        if word in ("/", "%"):
            sign = -1 if word == "/" else sign
        elif lowered in _POWERS and lowered not in ("squared", "cubed"):
            power = _POWERS[lowered]
        elif lowered in _MULTIPLIERS:
            scale *= _MULTIPLIERS[lowered]
        elif known is not None:
            index, power = _exponent(words, index, power)
            dimensions[known[0]] = dimensions.get(known[0], 0) + sign * power
            factor *= known[1] ** (sign * power)
            sign, power = 1, 1
        elif word[0] in "^0123456789" or _is_blocked(word):
            return None
        elif lowered.rstrip("s") not in _IGNORED and lowered not in _IGNORED:
            unknown.add(("/" if sign < 0 else "") + _singular(lowered))
            sign = power = 1  # in "square tiles" it says what tiles they are
    if power != 1 or abs(dimensions.get("angle", 0)) > 1:
        return None
    return _with_litres(Unit(tuple(dimensions.items()), factor, scale, frozenset(unknown), "%" in words))


def _with_litres(unit: Unit) -> Unit:
    """The unit with its dimensions in order, and litres as cubic decimetres."""
    dimensions = dict(unit.dimensions)
    dimensions.pop("", None)
    litres = dimensions.pop("volume", 0)
    dimensions["length"] = dimensions.get("length", 0) + 3 * litres
    kept = tuple(sorted((name, power) for name, power in dimensions.items() if power))
    return replace(unit, dimensions=kept, factor=unit.factor * Fraction(1, 1000) ** litres)


def _exponent(words: list[str], index: int, power: int) -> tuple[int, int]:
    if index < len(words) and words[index].startswith("^"):
        return index + 1, int(words[index].lstrip("^ {"))
    if index < len(words) and words[index].lower() in ("squared", "cubed"):
        return index + 1, _POWERS[words[index].lower()]
    return index, power


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
