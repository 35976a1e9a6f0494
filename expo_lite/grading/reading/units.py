"""Units at the end of an answer: what they measure, and how many of the base unit they are."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

_ALONE = "eur € euro;jpy ¥ yen;yuan rmb;radian rad;kelvin k;ohm;coulomb;mol mole;acre;hectare ha;person people"
_KINDS = {
    "length": "m meter metre=1; mm millimeter millimetre=0.001; cm centimeter centimetre=0.01; "
    "dm decimeter decimetre=0.1; km kilometer kilometre=1000; nm nanometer=1e-9; in inch inche=0.0254; "
    "ft foot feet=0.3048; yd yard=0.9144; mi mile=1609.344",
    "mass": "g gram gm=1; kg kilogram kilo=1000; mg milligram=0.001; ton tonne=1e6; lb pound=453.59237; "
    "oz ounce=28.349523125",
    "time": "s sec second=1; ms millisecond=0.001; min minute=60; h hr hour=3600; day=86400; week wk=604800",
    "year": "year yr=12; month mo=1; decade=120; century centurie=1200",
    "volume": "l liter litre=1; ml milliliter millilitre=0.001; cl centiliter=0.01",
    "gallon": "gallon gal=16; quart qt=4; pint pt=2; cup=1",
    "usd": "$ usd dollar buck=1; ¢ cent=0.01",
    "gbp": "£ gbp=1",  # "pounds" is a mass
    "inr": "₹ inr rupee r=1",
    "celsius": "°c celsius=1",
    "fahrenheit": "°f fahrenheit=1",
    "force": "n newton=1; kn kilonewton=1000",
    "energy": "j joule=1; kj kilojoule=1000; megajoule=1e6; millijoule=0.001",
    "electronvolt": "ev electronvolt=1; kev=1000; mev=1e6",
    "power": "w watt=1; kw kilowatt=1000; megawatt=1e6; milliwatt=0.001",
    "pressure": "pa pascal=1; kpa kilopascal=1000; megapascal=1e6; millipascal=0.001",
    "voltage": "v volt=1; kv kilovolt=1000; megavolt=1e6; millivolt=0.001",
    "current": "a ampere amp=1; milliampere=0.001",
    "frequency": "hz hertz=1; khz kilohertz=1000; mhz megahertz=1e6; millihertz=0.001",
    "data": "bit=1; byte=8",
    "angle": "° degree deg=1",
    "": "unit u=1",
} | {names.split()[0]: f"{names}=1" for names in _ALONE.split(";")}
"""Names of units and how many base units they are, by what they measure."""
_UNITS = {
    name: (kind, Fraction(entry.partition("=")[2]))
    for kind, entries in _KINDS.items()
    for entry in entries.split("; ")
    for name in entry.partition("=")[0].split()
}
_COMPOUND = {
    "mph": "mile / hour", "kph": "km / hour", "kmh": "km / hour", "mps": "m / s", "cc": "cm^3", "sqft": "ft^2",
}  # fmt: skip
_CASED = {
    "L": "l", "N": "n", "J": "j", "W": "w", "V": "v", "A": "a", "K": "k", "Pa": "pa", "Hz": "hz", "mL": "ml",
    "C": "coulomb", "mV": "millivolt", "MV": "megavolt", "mW": "milliwatt", "MW": "megawatt", "mJ": "millijoule",
    "MJ": "megajoule", "mPa": "millipascal", "MPa": "megapascal", "mHz": "millihertz", "mA": "milliampere",
}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_MULTIPLIERS = {
    "ten": 10, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
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
    "lakh crore gross power choose fold ish times root log above below off short beyond versus vs instead rather "
    "wrong incorrect false true invalid untrue maybe perhaps probably possibly guess nearly almost never sometimes "
    "unknown error mistake impossible yes nope "
    # Functions and letters.
    "sin cos tan cot csc arcsin arccos arctan arccot sinh cosh tanh coth ln exp sqrt gcd lcm max pi det lim mod abs "
    "floor ceil binom infty alpha beta gamma theta lambda".split()
)
_PARTS = re.compile(
    r"(?:half|halve|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|twelfth|hundredth|thousandth|millionth|percentile|inverse|"
    r"reciprocal)s?"
)
_TOKEN = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-zµΩ]+\.?|\^\s?(?:\d(?!\d)|\{-?\d\})|\d+|\s+|.", re.DOTALL)
_SIGNS = frozenset(("%", "$", "€", "£", "¥", "₹", "¢", r"\degree"))
_UNIT_FRACTION = re.compile(r"\\frac ?\{ ?(\\text\{[^{}]*\}) ?\}\{ ?(\\text\{[^{}]*\}(?:\^ ?\{?\d\}?)?) ?\}")
_PREFIX = re.compile(r"^([+-]?)\s?(?:US|CA|AU)?(\$|€|£|¥|₹|USD|EUR|Rs\.?)\s?(?=[\d.\\({+-])")
_QUANTITY = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?) ?(?:\\text\{ ?)?([A-Za-z]{1,12})\.?(?: ?\})?(?:,? ?(?:\\text\{ ?)?and(?: ?\})?|,)? ?"
)
_MAX_QUANTITIES = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a number.

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
        """True if it can differ from no other unit."""
        return not (self.dimensions or self.words or self.percent)

    def fits(self, other: "Unit") -> bool:
        """Check that numbers with these units can be compared; one side may leave its unit out."""
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
    text = _UNIT_FRACTION.sub(r"\1/\2", text)
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
    """The start of the run of unit-like tokens at the end; len(tokens) if there is none."""
    start = len(tokens)
    for index in reversed(range(len(tokens))):
        token = tokens[index]
        if token in _SIGNS or _is_unit_word(tokens, index):
            start = index
        elif not (token.isspace() or token in ("/", r"\cdot", ".") or re.match(r"\^.", token)):
            break
    return start


def _is_unit_word(tokens: list[str], index: int) -> bool:
    token = tokens[index]
    if token.startswith(r"\text{"):
        words = re.findall(r"[^\W\d]+", re.sub("°[cCfF]", "", token[6:-1]))
        return all(not _is_blocked(word) or word in _CASED for word in words)
    if not token[:1].isalpha():
        return False
    word = token.rstrip(".")
    if len(word) == 1:
        return _is_unit_letter(tokens, index, word)
    lowered = word.lower()
    if _is_blocked(word):
        return lowered in ("squared", "cubed") and index > 1 and _lookup(tokens[index - 2].rstrip(".")) is not None
    if _lookup(word) is not None or lowered in _POWERS or lowered.rstrip("s") in _MULTIPLIERS or lowered in _COMPOUND:
        return True
    spaced = index > 0 and tokens[index - 1].isspace()
    return lowered in ("per", "of", "in", "each", "all") or (spaced and len(word) >= 3 and word.isascii())


def _is_blocked(word: str) -> bool:
    """Check that a word after a number is neither a noun nor a unit."""
    return word.lower() in _BLOCKED or _PARTS.fullmatch(word.lower()) is not None


def _is_unit_letter(tokens: list[str], index: int, letter: str) -> bool:
    """Check that a letter is a unit: after "/" and a unit, or after a number, a space and perhaps other units."""
    if index > 1 and tokens[index - 1] == "/":
        return _is_unit_word(tokens, index - 2) or tokens[index - 2] == "$"
    if letter not in _CASED and letter not in "mgshl":
        return False
    return re.fullmatch(r"[\d.,\s/eE+-]*\d [A-Za-z ]*", "".join(tokens[:index])) is not None


def _words(tokens: list[str]) -> list[str]:
    text = "".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", token) for token in tokens)
    text = text.replace(r"\degree", " ° ").replace(r"\cdot", " ")
    text = re.sub(r"\bper\b", "/", re.sub(r"\bdegrees? (celsius|fahrenheit)\b", r"\1", text, flags=re.IGNORECASE))
    text = re.sub(r"\s*\^\s*\{?\s*", "^", re.sub(r"(?i)\bsquared\b", "^2", re.sub(r"(?i)\bcubed\b", "^3", text)))
    return re.findall(r"[^\W\d_]+(?:'s)?(?:\^-?\d)?|°[cCfF]?|[$€£¥₹¢%/]|\^-?\d|\d+", text)


def _unit_of(tokens: list[str]) -> Unit | None:
    words = [part for word in _words(tokens) for part in _COMPOUND.get(word.lower(), word).split()]
    if words.count("%") > 1:
        return None
    dimensions: dict[str, int] = {}
    factor, scale, sign, power = Fraction(1), 1, 1, 1
    unknown: set[str] = set()
    for word in words:
        name, _, exponent = word.partition("^")
        lowered, known = name.lower(), _lookup(name)
        if word in ("/", "%"):
            sign = -1 if word == "/" else sign
        elif lowered in _POWERS:
            power = _POWERS[lowered]
        elif lowered.rstrip("s") in _MULTIPLIERS:
            scale *= _MULTIPLIERS[lowered.rstrip("s")]
        elif known is not None:
            power = int(exponent or power)
            dimensions[known[0]] = dimensions.get(known[0], 0) + sign * power
            factor *= known[1] ** (sign * power)
            sign, power = 1, 1
        elif exponent or word.isdigit() or _is_blocked(word):
            return None
        elif lowered.rstrip("s") not in _IGNORED and lowered not in _IGNORED:
            unknown.add(("/" if sign < 0 else "") + lowered.rstrip("s"))
            sign = power = 1  # in "square tiles" it says what tiles they are
    if power != 1 or abs(dimensions.get("angle", 0)) > 1:
        return None
    dimensions.pop("", None)
    kept = tuple(sorted((name, power) for name, power in dimensions.items() if power))
    return Unit(kept, factor, scale, frozenset(unknown), "%" in words)


def _lookup(word: str) -> tuple[str, Fraction] | None:
    """Dimension and factor of a unit's name, singular or plural."""
    name = _CASED.get(word, word if len(word) == 1 else word.lower())
    return _UNITS.get(name) or (_UNITS.get(name[:-1]) if name.endswith("s") and len(name) > 2 else None)


def in_one_unit(text: str) -> str:
    """The quantity in the first of its units; a text that is no such quantity stays as it is."""
    parts: list[tuple[Fraction, str, Fraction, str]] = []
    position = 0
    while position < len(text) and len(parts) <= _MAX_QUANTITIES:
        found = _QUANTITY.match(text, position)
        unit = _lookup(found.group(2)) if found is not None else None
        if found is None or unit is None:
            return text
        parts.append((Fraction(found.group(1)), unit[0], unit[1], found.group(2)))
        position = found.end()
    kinds, factors = {kind for _, kind, _, _ in parts}, [factor for _, _, factor, _ in parts]
    if not 2 <= len(parts) <= _MAX_QUANTITIES or len(kinds) != 1 or factors != sorted(set(factors), reverse=True):
        return text
    total = sum((value * factor for value, _, factor, _ in parts), Fraction(0)) / factors[0]
    number = str(total) if total.denominator == 1 else f"{total.numerator}/{total.denominator}"
    return f"{number} {parts[0][3]}"
