"""One spelling for the many ways to write the same LaTeX: the first thing that happens to both answers."""

import re

from expo_lite.grading.extract import sanitise
from expo_lite.grading.repeating import as_fractions

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": r"\div ", "∗": "*", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ",
    "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "μ": r"\mu ", "ω": r"\omega ", "σ": r"\sigma ", "ε": r"\epsilon ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "ℝ": r"\R ", "ℤ": r"\Z ", "ℕ": r"\N ", "ℚ": r"\Q ", "ℂ": r"\C ", "°": r"\degree ",
    "º": r"\degree ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∖": r"\setminus ", "’": "'", "′": "'", "“": '"', "”": '"', "″": '"', "\u00a0": " ",
    "\u2009": " ", "\u202f": " ", "\u2062": " ", "⁄": "/", "∕": "/", "₋": "_-", "∣": "|", "，": ",", "：": ":",
    "（": "(", "）": ")", "∠": r"\angle ", "△": r"\triangle ", "…": r"\dots ", "∨": r"\text{ or }", "∧": r"\text{ and }",
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_RENAMED = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom", "leq": r"\le ",
    "leqslant": r"\le ", "leqq": r"\le ", "geq": r"\ge ", "geqslant": r"\ge ", "geqq": r"\ge ", "neq": r"\ne ",
    "lt": "<", "gt": ">", "colon": ":", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "lbrace": r"\{",
    "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "backslash": r"\setminus ",
    "smallsetminus": r"\setminus ", "varnothing": r"\emptyset ", "infin": r"\infty ", "ldots": r"\dots ",
    "cdots": r"\dots ", "dotsc": r"\dots ", "dotsb": r"\dots ", "degrees": r"\degree ", "textdegree": r"\degree ",
    "ast": "*", "land": r"\text{ and }", "wedge": r"\text{ and }", "lor": r"\text{ or }", "vee": r"\text{ or }",
    "euro": "€", "pounds": "£", "textdollar": "$", "textpercent": "%", "varepsilon": r"\epsilon ", "varphi": r"\phi ",
    "vartheta": r"\theta ", "simeq": r"\approx ", "approxeq": r"\approx ", "cong": r"\approx ", "bigcup": r"\cup ",
    "bigcap": r"\cap ", "reals": r"\R ", "iff": r"\text{ or }", "tg": r"\tan ", "ctg": r"\cot ", "arctg": r"\arctan ",
    "cosec": r"\csc ", "lg": r"\log ", "cent": "¢", "textcent": "¢", "imath": "i", "jmath": "j", "dotsm": r"\dots ",
    "tan^{-1}": r"\arctan ", "exponentialE": "e", "imaginaryI": "i",
}  # fmt: skip
_DROPPED = frozenset(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle scriptstyle "
    "limits nolimits rm bf it sf tt normalsize large Large small strut hfill noindent centering boldmath qed".split()
)
_SPACES = frozenset("quad qquad thinspace medspace thickspace space enspace nobreakspace newline allowbreak".split())
_CONTENT_ONLY = frozenset("vec boldsymbol bm mathbf underline uline mathit mathnormal mathcal overset emph".split())
_TEXT = frozenset(
    "text textbf textit textrm textnormal textsf texttt mbox hbox mathrm mathsf mathtt operatorname textup".split()
)
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln log exp sqrt gcd lcm min max det".split()
)
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?\s*")
_LETTER_ARGUMENT = re.compile(r"(?:\{\s?)?([A-Za-z])(?:\s?\})?")
_MAX_CHARS = 3000
_SPACING = re.compile(r"\\[,;:> ]|~|\\hspace\*?\{[^{}]{0,20}\}|\\[hv]?phantom\{[^{}]{0,40}\}|\\tag\{[^{}]{0,20}\}")
_GROUPED = re.compile(r"(?<=\d)\s?(?:\{\s?,\s?\}|,\\!|\\!,|\{,\\!\}|\{?\\[,;:]\}?|~)\s?(?=\d{3}(?!\d))")
_UNDERSCORED = re.compile(r"(?<![\w.])[1-9]\d{0,2}(?:_\d{3})+(?!\w)")
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_DELIMITERS = re.compile(r"\\[()\[\]]")
_DEGREE = re.compile(
    r"(?:\{\s?\})?\^\s?(?:\{\s?\\(?:circ|degree)\s?\}|\\(?:circ|degree)(?![A-Za-z]))|(?<=\d)\^(?:o(?![A-Za-z])|\{o\})"
)
_OVER = re.compile(r"\{([^{}]{1,60})\\over(?![A-Za-z])([^{}]{1,60})\}")
_PERCENT = re.compile(r"(?<=[\d}) ])\s?(?:\bper ?cent\b|\bpercentage\b|\bpct\b\.?)", re.IGNORECASE)
_COLOUR = re.compile(r"\\(?:text)?color\s?\{[^{}]{0,20}\}")
_LEAD = re.compile(
    r"^\s?(?:\\text\{\s?)?(?:so |thus |hence )?(?:the )?(?:final |correct )?answer(?: is\b:?|:)(?:\s?\})?\s?(?=[^}])",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"^\\text\{ ?([-+]?\d[^{}]*)\}$")
NEWLINE = "⏎"
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
    if text.isascii() and text.isalnum():
        return text
    text = _unicode(text)
    if any(mark in text for mark in "\\${^~"):
        text = _latex(text)
    text = _UNDERSCORED.sub(lambda number: number.group().replace("_", ""), re.sub(r"\s+", " ", text))
    text = _LEAD.sub("", text)
    text = _STARTS.sub("", _PERCENT.sub("%", as_fractions(text)).rstrip(_ENDS))
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(-])", "^", text).replace("**", "")
    text = _COUNTED.sub(r"\1", text)
    while text.startswith("{") and _closes_at(text, 0) == len(text) - 1:
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


def _latex(text: str) -> str:
    if "begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z({\[%$])", lambda _: "\\", text)
    text = (
        text.replace("\\\\", NEWLINE)
        .replace(r"\$", "\ue000")
        .replace(r"\%", "%")
        .replace(r"\&", "&")
        .replace(r"\#", "#")
    )
    text = _DELIMITERS.sub(" ", text)
    text = _money_or_delimiter(text).replace("\ue000", "$")
    text = _OVER.sub(r"\\frac{\1}{\2}", _DEGREE.sub(r"\\degree ", text))
    text = _DECIMAL_COMMA.sub(".", _GROUPED.sub("", text))
    text = _SPACING.sub(" ", _COLOUR.sub("", text)).replace(r"\!", "").replace(r"\/", "")
    return _commands(text)


def _money_or_delimiter(text: str) -> str:
    """A single dollar sign is money; a pair of them delimits mathematics."""
    return text if text.count("$") == 1 and re.search(r"\$\s?[\d.]|\d\s?\$", text) else text.replace("$", " ")


def _commands(text: str) -> str:
    out: list[str] = []
    position = 0
    while match := _COMMAND.search(text, position):
        out.append(text[position : match.start()])
        name, position = match.group(1), match.end()
        if name in _TEXT and text[position : position + 1] == "{":
            end = text.find("}", position)
            if end < 0:
                end = len(text)
            out.append(_text_block(name, text[position + 1 : end]))
            position = end + 1
        elif name in _DROPPED:
            if name in ("left", "right", "middle") and text[position : position + 1] == ".":
                position += 1
        elif name in _SPACES:
            out.append(" ")
        elif name == "mathbb":
            letter = _LETTER_ARGUMENT.match(text, position)
            if letter is not None:
                out.append(f"\\{letter.group(1)} ")
                position = letter.end()
        elif name in _CONTENT_ONLY:
            pass
        else:
            out.append(_RENAMED.get(name, match.group().rstrip() + " "))
    out.append(text[position:])
    return re.sub(r"(\\[A-Za-z]+) (?=[^A-Za-z ])", r"\1", "".join(out))


def _text_block(name: str, content: str) -> str:
    r"""A text command: bare where it holds a number, function or constant, else one `\text{}`."""
    word = content.strip()
    if word in _FUNCTIONS:
        return f"\\{word} "
    if re.fullmatch(r"-?[\d.,/]+", word) or (name == "mathrm" and word in ("e", "i", "d")):
        return word
    if word in ("%", "$", "£", "€", ""):
        return word or " "
    return "\\text{" + content + "}"


def _closes_at(text: str, start: int) -> int:
    """Where the brace that opens at `start` closes, or -1; escaped braces do not count."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[start:]):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0 and match.group() == "}":
            return start + match.start()
    return -1


def text_key(normalised: str) -> str:
    """What two answers share that differ only in spaces, text commands and the case of words."""
    text = re.sub(r"\\text\{([^{}]*)\}", lambda block: " " + _lower(block.group(1)) + " ", normalised)
    text = _WORD_RUN.sub(lambda word: word.group() if word.group().isupper() else word.group().lower(), text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text).replace("\\degree", "°")
    text = _STARTS.sub("", re.sub(r"\s+", " ", text).rstrip(_ENDS))
    # A space between two digits or two letters says something: 2 1/2 is not 21/2.
    return re.sub(r"(?<=[^\w]) | (?=[^\w])|(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)", "", text)


def _lower(words: str) -> str:
    stripped = words.strip()
    return stripped if len(stripped) == 1 else words.lower()
