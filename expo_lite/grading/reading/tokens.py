"""The tokens of an expression: numbers, commands, operators, single letters; words are refused."""

import re

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
