"""The tokens of an expression: numbers, commands, operators, single letters; words are refused."""

import re
from typing import NoReturn

_TOKEN = re.compile(
    r"\s*(?:(?P<num>\d+\.?\d*(?:[eE][+-]?\d{1,4}(?![\d.]))?|\.\d+(?:[eE][+-]?\d{1,4})?)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[{}|])|(?P<word>[A-Za-z]+)|(?P<op>[-+*/^_()\[\]{}|!%'=:,<>]))"
)
_MAX_TOKENS = 800

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln log exp sqrt abs gcd lcm min max "
    "arcsinh arccosh arctanh asin acos atan floor ceil factorial binom cbrt sgn".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()
)
_PLAIN_WORDS = (
    "pi", "infty", *sorted(FUNCTIONS, key=len, reverse=True), *sorted(GREEK - {"ell"}, key=len, reverse=True)
)  # fmt: skip


class NotUnderstood(ValueError):
    """The text is not an expression of this grammar."""


class Cursor:
    """A place in a list of tokens, read from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        """At the first of these."""
        self.tokens = tokens
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        """The next token, or the one that many further on; empty at the end."""
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def next(self) -> str:
        """The next token, which is then behind; empty at the end."""
        token = self.peek()
        self.at += 1
        return token

    def take(self, *wanted: str) -> bool:
        """Whether the next token is one of these; if so it is then behind."""
        if self.peek() in wanted and self.at < len(self.tokens):
            self.at += 1
            return True
        return False

    def sign(self) -> int:
        """1 or -1, by the plus and minus signs that come next, of which there may be none."""
        sign = 1
        while self.peek() in ("+", "-"):
            sign *= -1 if self.next() == "-" else 1
        return sign

    def expect(self, wanted: str) -> None:
        """Go past this token; raises NotUnderstood where another is next."""
        if not self.take(wanted):
            self.refuse()

    def expect_end(self) -> None:
        """Raise NotUnderstood where anything is left over."""
        if self.at < len(self.tokens):
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raise NotUnderstood, with the next token."""
        raise NotUnderstood(self.peek() or "end")


def tokens_of(text: str) -> list[str]:
    """The tokens; raises NotUnderstood for a character that is none, a word, or too many."""
    text = re.sub(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])", lambda m: m.group().replace(",", ""), text.strip())
    text = re.sub(
        r"(?<![\d.,] )(?<![\d.,])([1-9]\d{0,2}(?: \d{3})+)(?! ?\d)", lambda m: m.group().replace(" ", ""), text
    )
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotUnderstood(text[position : position + 20])
        position = match.end()
        word = match.group("word")
        tokens.extend(_letters(word) if word else [match.group(match.lastgroup or 0).strip()])
        if len(tokens) > _MAX_TOKENS:
            raise NotUnderstood("too long")
        if match.group("num") and re.match(r"\s+\d+\s*/\s*\d", text[position:]):
            tokens.append("&mixed")
    return tokens


def _letters(word: str) -> list[str]:
    """A run of letters as names of functions, constants and single variables; words are refused."""
    tokens: list[str] = []
    variables = 0
    while word:
        name = next((name for name in _PLAIN_WORDS if word.startswith(name)), None)
        if name is not None and len(name) > 1 and (len(name) > 2 or name in ("pi", "ln", "xi", "mu", "nu")):
            tokens.append("\\" + name)
            word = word[len(name) :]
            variables = 0
        else:
            tokens.append(word[0])
            word = word[1:]
            variables += 1
        if variables > 4:
            raise NotUnderstood("a word")
    return tokens
