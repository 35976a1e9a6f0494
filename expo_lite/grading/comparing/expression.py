"""LaTeX and plain mathematics to a tree, by our own grammar.

Words are no products of letters: they are refused. A tree is a tuple of a name and its parts:
("num", Fraction), ("sym", name), ("add" | "mul", *parts), ("pow", base, exponent), ("fn", name, *arguments).
"""

import re
from fractions import Fraction
from typing import Any, NoReturn

Tree = tuple[Any, ...]

_TOKEN = re.compile(
    r"\s*(?:(?P<num>\d+\.?\d*(?:[eE][+-]?\d{1,4}(?![\d.]))?|\.\d+(?:[eE][+-]?\d{1,4})?)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[{}|])|(?P<word>[A-Za-z]+)|(?P<op>[-+*/^_()\[\]{}|!%'=:,<>]))"
)
_THOUSANDS = re.compile(r"(?<![\d.,])(?<![\d.,] )[1-9]\d{0,2}(?:(?:,\d{3})+(?![\d,])|(?: \d{3})+(?! ?\d))")
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d{1,9})\s*/\s*(\d{1,9})(?!\.?\d)")
_MAX_TOKENS = 800

_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln log exp sqrt abs "
    "arcsinh arccosh arctanh factorial binom sgn".split()
)
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()
)
_PLAIN_WORDS = (
    "pi", "infty", *sorted(_FUNCTIONS, key=len, reverse=True), *sorted(_GREEK - {"ell"}, key=len, reverse=True)
)  # fmt: skip
_ENGLISH = frozenset("for if of or and not but when with then is on the".split())
_MAX_DEPTH = 100  # of sums and atoms
_MAX_DIGITS = 1000

_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sinh": "arcsinh"}
_CONSTANTS = {"pi": ("sym", "pi"), "infty": ("sym", "oo"), "e": ("sym", "e"), "i": ("sym", "i")}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}


class NotUnderstood(ValueError):
    """The text is not an expression of this grammar."""


def parse(text: str) -> Tree:
    """The tree of an expression; raises NotUnderstood for anything else."""
    parser = _Parser(_tokens_of(text))
    tree = parser.sum()
    parser.expect_end()
    return tree


def number(value: int | Fraction) -> Tree:
    """A number as a tree."""
    return ("num", Fraction(value))


class _Parser:
    """A list of tokens, read from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self._depth = 0
        self._bars = 0

    def peek(self, ahead: int = 0) -> str:
        """The next token, or the one that many further on; empty at the end."""
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def next(self) -> str:
        """Go past the next token and return it; empty at the end."""
        token = self.peek()
        self.at += 1
        return token

    def take(self, *wanted: str) -> bool:
        """Go past the next token if it is one of these, and say whether it was."""
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

    # The grammar, loosest binding first

    def sum(self) -> Tree:
        """Terms with plus and minus between them."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotUnderstood("too deep")
        terms = [self._signed_term()]
        while self.peek() in ("+", "-"):
            terms.append(self._signed_term())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def _signed_term(self) -> Tree:
        return _signed(self.sign(), self._term())

    def _term(self) -> Tree:
        factors = [self._power()]
        while True:
            if self.take("*", r"\times", r"\cdot"):
                factors.append(self._signed_power())
            elif self.take("/", r"\div"):
                factors.append(("pow", self._signed_power(), number(-1)))
            elif self._starts_factor():
                factors.append(self._implicit(factors[-1]))
            else:
                return factors[0] if len(factors) == 1 else ("mul", *factors)

    def _signed_power(self) -> Tree:
        return _signed(self.sign(), self._power())

    def _implicit(self, before: Tree) -> Tree:
        """A factor without an operator; refuses two numbers side by side ("2 3")."""
        if self.peek()[:1].isdigit() and before[0] == "num" and self.tokens[self.at - 1][:1].isdigit():
            self.refuse()
        return self._power()

    def _starts_factor(self) -> bool:
        token = self.peek()
        if not token:
            return False
        if token == "|":
            return self._bars == 0
        if token[0] == "\\":
            return token not in (r"\times", r"\cdot", r"\div", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\degree")
        return token[0].isalnum() or token[0] in "(.[{"

    def _power(self) -> Tree:
        base = self._postfix(self._atom())
        if self.take("^"):
            exponent = self._script()
            return self._postfix(("pow", base, exponent))
        return base

    def _postfix(self, tree: Tree) -> Tree:
        while True:
            if self.take("!"):
                if self.peek() == "!":
                    self.refuse()
                tree = ("fn", "factorial", tree)
            elif self.take("%"):
                tree = ("mul", tree, number(Fraction(1, 100)))
            elif self.take(r"\degree"):
                tree = ("mul", tree, ("sym", "pi"), number(Fraction(1, 180)))
            else:
                return tree

    def _script(self) -> Tree:
        """Read an exponent: a group, a signed number or letter, or a command."""
        sign = self.sign()
        token = self.peek()
        if not token or token in "^_)]}!%":
            self.refuse()
        # x^10 in plain text means what it looks like; LaTeX would raise only the 1.
        exponent = self._group() if token == "{" else self._atom()
        return _signed(sign, exponent)

    def _group(self) -> Tree:
        self.expect("{")
        return self._up_to("}")

    def _up_to(self, closing: str) -> Tree:
        tree = self.sum()
        self.expect(closing)
        return tree

    def _argument(self) -> Tree:
        r"""A braced argument, or one character as in \frac12."""
        if self.peek() == "{":
            return self._group()
        token = self.peek()
        if token[:1].isdigit():
            if len(token) > 1 and token.isdigit():
                self.tokens[self.at] = token[1:]
                return number(int(token[0]))
            self.at += 1
            return _literal(token)
        return self._atom()

    def _atom(self) -> Tree:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotUnderstood("too deep")
        tree = self._plain_atom()
        self._depth -= 1
        return tree

    def _plain_atom(self) -> Tree:
        token = self.next()
        if token[:1].isdigit() or token[:1] == ".":
            return self._number(token)
        if token in ("(", "[", "{", r"\{"):
            bars, self._bars = self._bars, 0
            tree = self._up_to(_CLOSING[token])
            self._bars = bars
            return tree
        if token in ("|", r"\|"):
            self._bars += 1
            tree = ("fn", "abs", self._up_to(token))
            self._bars -= 1
            return tree
        if token[:1] == "\\":
            return self._command(token[1:])
        if token.isalpha():
            return self._symbol(token)
        self.at -= 1
        self.refuse()

    def _number(self, token: str) -> Tree:
        value = _literal(token)
        if token.isdigit() and self.peek() == r"\frac":
            part = self._mixed_part()
            if part is not None:
                return number(value[1] + part)
        return value

    def _mixed_part(self) -> Fraction | None:
        r"""The fraction of a mixed number such as 2\frac{1}{3}, if the next command is one."""
        before = self.at, list(self.tokens), self._depth, self._bars
        self.at += 1
        try:
            top, bottom = self._argument(), self._argument()
        except NotUnderstood:
            top = bottom = number(0)
        if top[0] == bottom[0] == "num" and 0 < top[1] < bottom[1] and top[1].denominator == bottom[1].denominator == 1:
            return Fraction(top[1] / bottom[1])
        self.at, self.tokens, self._depth, self._bars = before
        return None

    def _symbol(self, name: str) -> Tree:
        if self.take("_"):
            name += "_" + self._subscript()
        while self.take("'"):
            name += "'"
        end = 3 if self.peek(1) == "-" else 2
        applied = self.peek(end - 1)[:1].isdigit() and self.peek(end) == ")" and name not in _CONSTANTS  # y(0)
        if (applied or name.rstrip("'") in ("f", "g")) and self.take("("):
            return ("fn", "unknown", self._up_to(")"), ("sym", name + "()"))
        return _CONSTANTS.get(name, ("sym", name))

    def _subscript(self) -> str:
        if not self.take("{"):
            return self.next()
        parts = []
        while self.peek() not in ("}", ""):
            parts.append(self.next())
        self.expect("}")
        return "".join(parts)

    def _command(self, name: str) -> Tree:
        if name == "frac":
            return ("mul", self._argument(), ("pow", self._argument(), number(-1)))
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return ("fn", "binom", self._argument(), self._argument())
        if name in _FUNCTIONS:
            return self._function(name)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _GREEK:
            return self._symbol("\\" + name)
        self.at -= 1
        self.refuse()

    def _root(self) -> Tree:
        index = self._up_to("]") if self.take("[") else number(2)
        if self.peek()[:1].isdigit():
            # \sqrt12 means the root of 12, whatever TeX makes of it.
            return ("fn", "root", _literal(self.next()), index)
        return ("fn", "root", self._argument(), index)

    def _function(self, name: str) -> Tree:
        base = None
        if name == "log" and self.take("_"):
            base = self._argument()
        exponent = self._script() if self.take("^") else None
        arguments = self._function_arguments(name)
        if exponent == ("mul", number(-1), number(1)) and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        if base is not None:
            arguments.append(base)
        tree: Tree = ("fn", name, *arguments)
        return tree if exponent is None else ("pow", tree, exponent)

    def _function_arguments(self, name: str) -> list[Tree]:
        if self.peek() in ("(", "{", "["):
            closing = _CLOSING[self.next()]
            return [self._up_to(closing)]
        if self.peek() == "|":
            return [self._power()]
        factors = [self._signed_power()]
        while self._starts_factor() and self.peek() not in ("(", "[") and self.peek()[1:] not in _FUNCTIONS:
            factors.append(self._implicit(factors[-1]))
        return [factors[0] if len(factors) == 1 else ("mul", *factors)]


def _signed(sign: int, tree: Tree) -> Tree:
    return tree if sign == 1 else ("mul", number(-1), tree)


def _literal(token: str) -> Tree:
    if (not token[:1].isdigit() and token[:1] != ".") or len(token) > _MAX_DIGITS:
        raise NotUnderstood(token[:20])
    return number(Fraction(token.rstrip(".") if "e" not in token.lower() else token))


def _tokens_of(text: str) -> list[str]:
    """The tokens; raises NotUnderstood for a character that is none, a word, or too many."""
    text = _THOUSANDS.sub(lambda found: re.sub("[ ,]", "", found[0]), text.strip())
    text = _MIXED.sub(_as_fraction, text)
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
    return tokens


def _as_fraction(mixed: re.Match[str]) -> str:
    """Write the fraction of a mixed number, 2 1/3, as a command; 2 4/3 is none."""
    return rf"{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}" if 0 < int(mixed[2]) < int(mixed[3]) else mixed[0]


def _letters(word: str) -> list[str]:
    """A run of letters as names of functions, constants and single variables; words are refused."""
    tokens: list[str] = []
    variables = 0
    if word in _ENGLISH:
        raise NotUnderstood(word)
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
