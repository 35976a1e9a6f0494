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
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln log exp sqrt gcd lcm min max "
    "det".split()
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
_UNIT_OR_FUNCTION = frozenset(("min", "sec"))
NEWLINE = "⏎"


def spelled(text: str) -> str:
    """LaTeX in one spelling."""
    text = _ROW_GAP.sub(lambda _: "\\\\", text)
    if "begin" in text:
        text = _laid_out(text)
    text = re.sub(r"\\([%&#])", r"\1", text.replace("\\\\", NEWLINE).replace(r"\$", "\ue000"))
    text = _money_or_delimiter(_DELIMITERS.sub(" ", text)).replace("\ue000", "$")
    text = re.sub(r"\^ ?\{?((?:\\prime ?){1,3})\}?", lambda found: "'" * found[1].count("p"), text)
    text = re.sub(r"\\[pb]?mod\b ?(?:\{([^{}]*)\}|(\w+))", r"\\text{ mod \1\2}", text)
    text = _DEGREE.sub(r"\\degree ", text).replace("{:}", ":")
    text = _SPACING.sub(" ", _GROUPED.sub("", text)).replace(r"\!", "").replace(r"\/", "")
    return _commands(text)


def _laid_out(text: str) -> str:
    """Replace an environment that only lays out by its rows, with commas between; continued rows are joined."""
    if not _LAYOUT.search(text):
        return text
    rows = [row.replace("&", "").strip() for row in _LAYOUT.sub(" ", text).split("\\\\")]
    if r"\begin" in text and _LAYOUT.sub("", text).count(r"\begin"):
        return text  # around a matrix: its rows are not ours
    joined = ""
    for row in filter(None, rows):
        joined += row if not joined else f" {row}" if re.match(r"=|\\approx|\\equiv", row) else f", {row}"
    return joined


def _money_or_delimiter(text: str) -> str:
    """A single dollar sign is money; a pair of them delimits mathematics."""
    return text if text.count("$") == 1 and re.search(r"\$\s?[\d.]|\d\s?\$", text) else text.replace("$", " ")


def _commands(text: str) -> str:
    out: list[str] = []
    position = 0
    while match := _COMMAND.search(text, position):
        out.append(text[position : match.start()])
        said, position = _command(match, text, "".join(out[-3:]).rstrip())
        out.append(said)
    out.append(text[position:])
    return re.sub(r"(\\[A-Za-z]+) (?=[^A-Za-z ])", r"\1", "".join(out))


def _command(match: re.Match[str], text: str, before: str) -> tuple[str, int]:
    """Return the replacement of a command, and the position after it."""
    name, position = match.group(1), match.end()
    if name in _TEXT and text[position : position + 1] == "{":
        return _text_command(name, text, position, before)
    if name in _DROPPED:
        has_dot = name in ("left", "right", "middle") and text[position : position + 1] == "."
        return "", position + has_dot
    if name in _SPACES:
        return " ", position
    if name == "mathbb" or name in _CONTENT_ONLY:
        return _letter(name, text, position)
    if name in _UNIT_OR_FUNCTION and not text[position:].strip(" .$") and _is_unit(before, ""):
        return f"\\text{{ {name} }}", position
    return _RENAMED.get(name, match.group().rstrip() + " "), position


def _letter(name: str, text: str, position: int) -> tuple[str, int]:
    r"""The letter of \mathbb as a command, the letter in \vec{v} bare; a longer argument stays in its braces."""
    letter = _LETTER_ARGUMENT.match(text, position)
    if name == "mathbb":
        return ("", position) if letter is None else (f"\\{letter.group(1)} ", letter.end())
    if letter is None or not (text[position] == "{" and text[letter.end() - 1] == "}"):
        return "", position
    return letter.group(1), letter.end()


def _text_command(name: str, text: str, position: int, before: str) -> tuple[str, int]:
    end = text.find("}", position)
    end = len(text) if end < 0 else end
    content = text[position + 1 : end]
    if content.strip() in _UNIT_OR_FUNCTION and _is_unit(before, text[end + 1 : end + 3]):
        return f"\\text{{ {content.strip()} }}", end + 1
    return _text_block(name, content), end + 1


def _is_unit(before: str, after: str) -> bool:
    """Check that "min" or "sec" is a unit: it follows a number, and no argument follows it."""
    return (before[-1:].isdigit() or before.endswith("}")) and after.strip()[:1] not in ("(", "{")


def _text_block(name: str, content: str) -> str:
    r"""A text command: bare where it holds a number, function or constant, else one `\text{}`."""
    word = content.strip()
    if word in _FUNCTIONS:
        return f"\\{word} "
    if name == "mathrm" and word in ("e", "i", "d"):
        return word
    if not word:
        return " "
    return "\\text{" + content + "}"
