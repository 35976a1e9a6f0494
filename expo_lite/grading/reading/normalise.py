"""One spelling for the many ways to write the same LaTeX: the first thing that happens to both answers."""

import re
import unicodedata
from fractions import Fraction

from expo_lite.grading.reading.extract import sanitise
from expo_lite.grading.reading.latex import NEWLINE, spelled

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": r"\div ", "∗": "*", "≤": r"\le ", "⩽": r"\le ", "⩾": r"\ge ", "°": r"\degree ",
    "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∧": r"\text{ and }",
    "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "μ": r"\mu ", "ω": r"\omega ", "σ": r"\sigma ", "ε": r"\epsilon ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "ℝ": r"\R ", "ℤ": r"\Z ", "ℕ": r"\N ", "ℚ": r"\Q ", "ℂ": r"\C ",
    "º": r"\degree ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "⟨": r"\langle ", "⟩": r"\rangle ", "∖": r"\setminus ",
    "’": "'", "′": "'", "“": '"', "”": '"', "″": '"', "\u2062": " ", "⁄": "/", "∕": "/", "∣": "|", "∶": ":",
    "∠": r"\angle ", "△": r"\triangle ", "…": r"\dots ", "∨": r"\text{ or }",
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_SMALL = (("([⁰¹²³⁴-⁹⁺⁻ⁿˣ]+)", r"^{\1}"), ("([₀-₉₋]+)", r"_{\1}"), ("([¼-¾⅐-⅞])", r"\\frac{\1}"))
"""Small letters and their commands; NFKC makes them large."""

_MAX_CHARS = 3000
_BARRED = re.compile(r"(?<![\d.,])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot) ?\{ ?(\d{1,12}) ?\}(?!\d)")
_PERCENT = re.compile(r"(?<=[\d}) ])\s?(?:\bper ?cent\b|\bpercentage\b|\bpct\b\.?)", re.IGNORECASE)
_ARTICLE = re.compile(
    r"^(?:an?|the|on|in|at) (?!(?:sin|cos|tan|cot|sec|csc|log|ln|sqrt|exp|arc))(?=[a-z]{3}[a-z' -]*$)"
)
_ASIDE = re.compile(  # 9 (apples); the names of numbers make another number of the one before them
    r"(^|[;,] ?)(-?[$\d][\d.,/ ]*|-?\\frac\{\d+\}\{\d+\})(?: (?=\()| ?(\\text\{ ?))\((\\text\{ ?)?"
    r"(?![a-z ]*\b(?:ten|hundred|thousand|dozen|[a-z]+illion)\b)([A-Za-z][A-Za-z ./]*(?:\^ ?\{?\d\}?)?)"
    r"(?(4)\})\)(?(3) ?\})(?=$|[;,])"
)
_COUNTED = re.compile(r"^\\text\{ ?([-+]?\$?\d[^{}]*)\}$")
_ENDS = " \t\n*_.,;:`⏎"
_STARTS = re.compile(r"^(?:[ \t\n*_,;:`⏎]|\.(?!\d))+")
_WORD_RUN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def normalise(text: str) -> str:
    r"""Write an answer with one spelling a thing: `\frac`, `\le`, `\text{}`; no sizes, delimiters or end punctuation.

    A text of more than 3,000 characters stays as it is: nobody writes such an answer.
    """
    text = sanitise(text)
    if len(text) > _MAX_CHARS:
        return text.strip()
    if text.isascii() and text.isalnum():
        return text
    text = _unicode(text)
    if any(mark in text for mark in "\\${^~"):
        text = spelled(text)
    text = _STARTS.sub("", re.sub(r"\s+", " ", text))
    if "(" in text:
        text = re.sub(r"(?<=\d) ?\((?:=|i\.e\.,?) ?([^()=]+)\)$", r" = \1", _ASIDE.sub(r"\1\2 \5", text))
        text = re.sub(r"(?<=[\d}]) ?\((\\approx[^()=]+)\)$", r" \1", text)
        text = re.sub(r"(?<=[)\]]) ?(?:U|\\text\{ ?U ?\}) ?(?=[(\[])", lambda _: r"\cup ", text)
        text = re.sub(r"^(-?[\d.,/]+) \((-?[\d.,/]+)\)$", r"\1 = \2", text)
    text = _BARRED.sub(_fraction, text)
    text = re.sub(r",? ?(?:\\text\{ ?,? ?)?where [^=]{1,20} is (?:an? )?(?:\w+ )?constant\W*$", "", text)
    text = _STARTS.sub("", _PERCENT.sub("%", text).rstrip(_ENDS))
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(-])", "^", text).replace("**", "")
    text = _COUNTED.sub(r"\1", text)
    if r"\begin" not in text and "=" in text:  # x = 1 and y = 2 side by side, or one below the other
        text = re.sub(r"(?<=[\d})])\.? (?=[A-Za-z](?:_\w)? ?=)", ", ", text.replace(NEWLINE, ", "))
    while re.fullmatch(r"\{(?:[^{}\\]|\\.|\{[^{}]*\})*+\}", text):
        text = _STARTS.sub("", text[1:-1].rstrip(_ENDS))
    return text


def _fraction(found: re.Match[str]) -> str:
    r"""Write an endless decimal such as 0.1\overline{6} as a fraction."""
    whole, before, block = found.groups()
    repeats = int("9" * len(block)) * 10 ** len(before)
    value = Fraction(int(whole or 0)) + Fraction(int(before or 0), 10 ** len(before)) + Fraction(int(block), repeats)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _unicode(text: str) -> str:
    if not text.isascii():
        for pattern, instead in _SMALL:
            text = re.sub(pattern, instead, text)
        text = unicodedata.normalize("NFKC", text.translate(_TABLE)).replace("\u2044", "}{").replace("\u2212", "-")
    for plain, latex in (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("\\lt=", r"\le ")):
        text = text.replace(plain, latex)
    return text


def text_key(normalised: str) -> str:
    """A key that ignores spaces, text commands and the case of words."""
    text = re.sub(r"\\text\{([^{}]*)\}", lambda block: " " + _lower(block.group(1)) + " ", normalised)
    text = _WORD_RUN.sub(lambda word: word.group() if word.group().isupper() else _lower(word.group()), text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text).replace("\\degree", "°")
    text = _ARTICLE.sub("", _STARTS.sub("", re.sub(r"\s+", " ", text).rstrip(_ENDS)).lstrip())
    # A space between two digits or two letters says something: 2 1/2 is not 21/2.
    return re.sub(r"(?<=[^\w]) | (?=[^\w])|(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)", "", text)


def _lower(words: str) -> str:
    """The words in lower case; a single letter and a unit with a prefix keep theirs: MV is not mV."""
    stripped = words.strip()
    return stripped if len(stripped) == 1 or re.fullmatch("[mM](?:[VWJA]|Pa|Hz)", stripped) else words.lower()
