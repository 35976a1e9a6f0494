"""One spelling for the many ways to write the same LaTeX: the first thing that happens to both answers."""

import re

from expo_lite.grading.reading.extract import sanitise
from expo_lite.grading.reading.latex import spelled
from expo_lite.grading.reading.repeating import as_fractions

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": r"\div ", "∗": "*", "≤": r"\le ", "⩽": r"\le ", "⩾": r"\ge ",
    "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ",
    "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "μ": r"\mu ", "ω": r"\omega ", "σ": r"\sigma ", "ε": r"\epsilon ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "ℝ": r"\R ", "ℤ": r"\Z ", "ℕ": r"\N ", "ℚ": r"\Q ", "ℂ": r"\C ",
    "°": r"\degree ",
    "º": r"\degree ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∖": r"\setminus ", "’": "'", "′": "'", "“": '"', "”": '"', "″": '"', "\u00a0": " ",
    "\u2009": " ", "\u202f": " ", "\u2062": " ", "⁄": "/", "∕": "/", "₋": "_-", "∣": "|", "，": ",", "：": ":",
    "（": "(", "）": ")", "∠": r"\angle ", "△": r"\triangle ", "…": r"\dots ", "∨": r"\text{ or }",
    "∧": r"\text{ and }",
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_MAX_CHARS = 3000
_UNDERSCORED = re.compile(r"(?<![\w.])[1-9]\d{0,2}(?:_\d{3})+(?!\w)")
_CHOSEN = re.compile(
    r"(?<![\w)}\]])(?:\{ ?\} ?)?(?P<up>[_^]) ?\{? ?(?P<n>\d{1,4}) ?\}? ?(?P<kind>[CP]) ?_ ?\{? ?(?P<k>\d{1,4}) ?\}?"
    r"|(?<![\w^_}])(?P<kind2>[CP]) ?_ ?\{? ?(?P<n2>\d{1,4}) ?\}? ?\^ ?\{? ?(?P<k2>\d{1,4}) ?\}?"
    r"|^(?P<n3>\d{1,4})(?P<kind3>[CP])(?P<k3>\d{1,4})$"
)
_PERCENT = re.compile(r"(?<=[\d}) ])\s?(?:\bper ?cent\b|\bpercentage\b|\bpct\b\.?)", re.IGNORECASE)
_LEAD = re.compile(
    r"^\s?(?:\\text\{\s?)?(?:so |thus |hence )?(?:the )?(?:final |correct )?answer(?: is\b:?|:)(?:\s?\})?\s?(?=[^}])",
    re.IGNORECASE,
)
_ARTICLE = re.compile(
    r"^(?:an?|the|on|in|at) (?!(?:sin|cos|tan|cot|sec|csc|log|ln|sqrt|exp|arc))(?=[a-z]{3}[a-z' -]*$)"
)
_COUNTED = re.compile(r"^\\text\{ ?([-+]?\d[^{}]*)\}$")
_QUOTED = re.compile(r"^([\"'`])([^\"'`]{1,200})\1$")
_ENDS = " \t\n*_.,;:`⏎"
_STARTS = re.compile(r"^(?:[ \t\n*_,;:`⏎]|\.(?!\d))+")
_WORD_RUN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def normalise(text: str) -> str:
    r"""The answer with one spelling a thing: plain `\frac`, `\le`, `\text{}`; no sizes, delimiters or end punctuation.

    A text of more than 3,000 characters stays as it is: nobody writes such an answer.
    """
    text = sanitise(text)
    if len(text) > _MAX_CHARS:
        return text.strip()
    if text.isascii() and text.isalnum() and not ("C" in text or "P" in text):
        return text
    text = _unicode(text)
    if "C" in text or "P" in text:
        text = _CHOSEN.sub(_chosen, text.strip(" $")).replace("nCr(", "C(").replace("nPr(", "P(")
    if any(mark in text for mark in "\\${^~"):
        text = spelled(text)
    text = _UNDERSCORED.sub(lambda number: number.group().replace("_", ""), re.sub(r"\s+", " ", text))
    text = _LEAD.sub("", text)
    text = _STARTS.sub("", _PERCENT.sub("%", as_fractions(text)).rstrip(_ENDS))
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(-])", "^", text).replace("**", "")
    text = _COUNTED.sub(r"\1", text)
    text = _QUOTED.sub(r"\2", re.sub(r"(?<![A-Za-z])oo(?![A-Za-z])", lambda _: r"\infty", text))
    while text.startswith("{") and _closing(text) == len(text) - 1:
        text = _STARTS.sub("", text[1:-1].rstrip(_ENDS))
    return text


def _unicode(text: str) -> str:
    if not text.isascii():
        text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
        text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run.group().translate(_SUBSCRIPTS) + "}", text)
        text = text.translate(_TABLE)
    # A backslash that some string literal swallowed.
    text = text.replace("\x0crac", r"\frac").replace("\text{", r"\text{").replace("\times", r"\times")
    for plain, latex in (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("\\lt=", r"\le ")):
        text = text.replace(plain, latex)
    return text


def _chosen(found: re.Match[str]) -> str:
    r"""8 above 2 in the ways that C and P are written, as \binom or P(8,2)."""
    kind = found["kind"] or found["kind2"] or found["kind3"]
    n, k = found["n"] or found["n2"] or found["n3"], found["k"] or found["k2"] or found["k3"]
    return rf"\binom{{{n}}}{{{k}}}" if kind == "C" else f"P({n},{k})"


def _closing(text: str) -> int:
    """Where the brace that a text begins with closes, or -1; escaped braces do not count."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0 and match.group() == "}":
            return match.start()
    return -1


def text_key(normalised: str) -> str:
    """What two answers share that differ only in spaces, text commands and the case of words."""
    text = re.sub(r"\\text\{([^{}]*)\}", lambda block: " " + _lower(block.group(1)) + " ", normalised)
    text = _WORD_RUN.sub(lambda word: word.group() if word.group().isupper() else word.group().lower(), text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text).replace("\\degree", "°")
    text = _ARTICLE.sub("", _STARTS.sub("", re.sub(r"\s+", " ", text).rstrip(_ENDS)).lstrip())
    # A space between two digits or two letters says something: 2 1/2 is not 21/2.
    return re.sub(r"(?<=[^\w]) | (?=[^\w])|(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)", "", text)


def _lower(words: str) -> str:
    stripped = words.strip()
    return stripped if len(stripped) == 1 else words.lower()
