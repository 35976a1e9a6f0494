"""The commands of LaTeX in one spelling: no sizes, colours, delimiters or layout; texts and letters in one form."""

import re

_RENAMED = {
    "dfrac": r"\frac ", "tfrac": r"\frac ", "cfrac": r"\frac ", "dbinom": r"\binom", "tbinom": r"\binom",
    "leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge ", "geqslant": r"\ge ", "neq": r"\ne ", "lt": "<", "gt": ">",
    "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "lbrace": r"\{", "rbrace": r"\}", "backslash": r"\setminus ",
    "smallsetminus": r"\setminus ", "varnothing": r"\emptyset ", "ldots": r"\dots ", "cdots": r"\dots ",
    "land": r"\text{ and }", "lor": r"\text{ or }", "varepsilon": r"\epsilon ", "varphi": r"\phi ", "bigcup": r"\cup ",
}  # fmt: skip
_DROPPED = frozenset(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle limits "
    "nolimits rm bf it large Large".split()
)
_SPACES = frozenset("quad qquad thinspace medspace thickspace space enspace nobreakspace newline allowbreak".split())
_CONTENT_ONLY = frozenset(
    "vec boldsymbol bm ensuremath underbrace mathbf underline uline mathit mathnormal mathcal overset emph".split()
)
_TEXT = frozenset(
    "text textbf textit textrm textnormal textsf texttt mbox hbox mathrm mathsf mathtt operatorname textup".split()
)
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?\s*")
_LETTER_ARGUMENT = re.compile(r"(?:\{\s?)?([A-Za-z])(?:\s?\})?")
_SPACING = re.compile(
    r"\\[,;:> ]|~|\\hspace\*?\{[^{}]{0,20}\}|\\[hv]?phantom\{[^{}]{0,40}\}|\\(?:tag|(?:text)?color) ?\{[^{}]{0,20}\}"
)
_GROUPED = re.compile(r"(?<=\d)\s?(?:\{\s?,\s?\}|,\\!|\\!,|\{,\\!\}|\{?\\[,;:]\}?|~)\s?(?=\d{3}(?!\d))")
_ROW_GAP = re.compile(r"\\\\\*? ?\[ ?-?[\d.]{1,6} ?(?:pt|em|ex|mm|cm|in|\\baselineskip) ?\]")
_LAYOUT = re.compile(
    r"\\(begin|end) ?\{(?:aligned|align|equation|gathered|gather|split|alignedat|multline)\*?\}(?:\[[tbc]\])?"
)
_DELIMITERS = re.compile(r"\\[()\[\]]")
_DEGREE = re.compile(
    r"(?:\{\s?\})?\^\s?(?:\{\s?\\(?:circ|degree)\s?\}|\\(?:circ|degree)(?![A-Za-z]))|(?<=\d)\^(?:o(?![A-Za-z])|\{o\})"
)
NEWLINE = "⏎"


def spelled(text: str) -> str:
    """LaTeX in one spelling."""
    text = _ROW_GAP.sub(lambda _: "\\\\", text)
    if "begin" in text:  # rows of a layout; commas are put between them later
        text = _LAYOUT.sub(" ", text)
        text = text if r"\begin" in text else re.sub(r"\\\\\s*(?==|\\approx|\\equiv)", "", text.replace("&", ""))
    text = re.sub(r"\\([%&#])", r"\1", text.replace("\\\\", NEWLINE).replace(r"\$", "\ue000"))
    text = _money_or_delimiter(_DELIMITERS.sub(" ", text)).replace("\ue000", "$")
    text = re.sub(r"\^ ?\{?((?:\\prime ?){1,3})\}?", lambda found: "'" * found[1].count("p"), text)
    text = re.sub(r"\\[pb]?mod\b ?(?:\{([^{}]*)\}|(\w+))", r"\\text{ mod \1\2}", text)
    text = _DEGREE.sub(r"\\degree ", text).replace("{:}", ":")
    text = _SPACING.sub(" ", _GROUPED.sub("", text)).replace(r"\!", "").replace(r"\/", "")
    return _commands(text)


def _money_or_delimiter(text: str) -> str:
    """A single dollar sign is money; a pair of them delimits mathematics."""
    return text if text.count("$") == 1 and re.search(r"\$\s?[\d.]|\d\s?\$", text) else text.replace("$", " ")


def _commands(text: str) -> str:
    out: list[str] = []
    position = 0
    while match := _COMMAND.search(text, position):
        out.append(text[position : match.start()])
        said, position = _command(match, text)
        out.append(said)
    out.append(text[position:])
    return re.sub(r"(\\[A-Za-z]+) (?=[^A-Za-z ])", r"\1", "".join(out))


def _command(match: re.Match[str], text: str) -> tuple[str, int]:
    """Return the replacement of a command, and the position after it."""
    name, position = match.group(1), match.end()
    if name in _TEXT and text[position : position + 1] == "{":
        return _text_command(name, text, position)
    if name in _DROPPED:
        has_dot = name in ("left", "right", "middle") and text[position : position + 1] == "."
        return "", position + has_dot
    if name in _SPACES:
        return " ", position
    if name == "mathbb" or name in _CONTENT_ONLY:
        return _letter(name, text, position)
    return _RENAMED.get(name, match.group().rstrip() + " "), position


def _letter(name: str, text: str, position: int) -> tuple[str, int]:
    r"""The letter of \mathbb as a command, the letter in \vec{v} bare; a longer argument stays in its braces."""
    letter = _LETTER_ARGUMENT.match(text, position)
    if name == "mathbb":
        return ("", position) if letter is None else (f"\\{letter.group(1)} ", letter.end())
    if letter is None or not (text[position] == "{" and text[letter.end() - 1] == "}"):
        return "", position
    return letter.group(1), letter.end()


def _text_command(name: str, text: str, position: int) -> tuple[str, int]:
    r"""A text command: bare where it holds a constant, else one `\text{}`."""
    end = text.find("}", position)
    end = len(text) if end < 0 else end
    content = text[position + 1 : end]
    if name == "mathrm" and content.strip() in ("e", "i", "d"):
        return content.strip(), end + 1
    return "\\text{" + content + "}" if content.strip() else " ", end + 1
