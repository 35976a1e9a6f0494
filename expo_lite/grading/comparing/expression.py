"""LaTeX and plain mathematics to a tree, by our own grammar.

math-verify's grammar reads mixed numbers as products and takes whole words for products of letters; here what is not
understood is refused. A tree is a tuple of a name and its parts:
("num", Fraction), ("sym", name), ("add" | "mul", *parts), ("pow", base, exponent), ("fn", name, *arguments).
"""

from fractions import Fraction
from typing import Any, NoReturn

from expo_lite.grading.reading.tokens import FUNCTIONS, GREEK, NotUnderstood, tokens_of

Tree = tuple[Any, ...]

_MAX_DEPTH = 100  # of sums and atoms
_MAX_DIGITS = 1000

_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sinh": "arcsinh"}
_CONSTANTS = {"pi": ("sym", "pi"), "infty": ("sym", "oo"), "e": ("sym", "e"), "i": ("sym", "i")}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}


def parse(text: str) -> Tree:
    """The tree of an expression; raises NotUnderstood for anything else."""
    parser = _Parser(tokens_of(text))
    tree = parser.sum()
    parser.expect_end()
    return tree


def number(value: int | Fraction) -> Tree:
    """A number as a tree."""
    return ("num", Fraction(value))


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._bars = 0

    # Reading tokens

    def _peek(self, ahead: int = 0) -> str:
        index = self._at + ahead
        return self._tokens[index] if index < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, *wanted: str) -> bool:
        if self._peek() in wanted and self._at < len(self._tokens):
            self._at += 1
            return True
        return False

    def _refuse(self) -> NoReturn:
        raise NotUnderstood(self._peek() or "end")

    def _expect(self, wanted: str) -> None:
        if not self._take(wanted):
            self._refuse()

    def expect_end(self) -> None:
        """Refuse anything that is left over."""
        if self._at < len(self._tokens):
            self._refuse()

    # The grammar, loosest binding first

    def sum(self) -> Tree:
        """Terms with plus and minus between them."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotUnderstood("too deep")
        terms = [self._signed_term()]
        while self._peek() in ("+", "-"):
            terms.append(self._signed_term())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def _signed_term(self) -> Tree:
        sign = 1
        while self._peek() in ("+", "-"):
            sign *= -1 if self._next() == "-" else 1
        term = self._term()
        return term if sign == 1 else ("mul", number(-1), term)

    def _term(self) -> Tree:
        factors = [self._power()]
        while True:
            if self._take("*", r"\times", r"\cdot"):
                factors.append(self._signed_power())
            elif self._take("/", r"\div"):
                factors.append(("pow", self._signed_power(), number(-1)))
            elif self._starts_factor():
                factors.append(self._implicit(factors[-1]))
            else:
                return factors[0] if len(factors) == 1 else ("mul", *factors)

    def _signed_power(self) -> Tree:
        sign = 1
        while self._peek() in ("+", "-"):
            sign *= -1 if self._next() == "-" else 1
        power = self._power()
        return power if sign == 1 else ("mul", number(-1), power)

    def _implicit(self, before: Tree) -> Tree:
        """A factor without an operator; refuses two numbers side by side ("2 3")."""
        if self._peek()[:1].isdigit() and before[0] == "num" and self._tokens[self._at - 1][:1].isdigit():
            self._refuse()
        return self._power()

    def _starts_factor(self) -> bool:
        token = self._peek()
        if not token or token == "&mixed":
            return False
        if token == "|":
            return self._bars == 0
        if token[0] == "\\":
            return token not in (r"\times", r"\cdot", r"\div", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\degree")
        return token[0].isalnum() or token[0] in "(.[{"

    def _power(self) -> Tree:
        base = self._postfix(self._atom())
        if self._take("^"):
            exponent = self._script()
            return self._postfix(("pow", base, exponent))
        return base

    def _postfix(self, tree: Tree) -> Tree:
        while True:
            if self._take("!"):
                if self._peek() == "!":
                    self._refuse()
                tree = ("fn", "factorial", tree)
            elif self._take("%"):
                tree = ("mul", tree, number(Fraction(1, 100)))
            elif self._take(r"\degree"):
                tree = ("mul", tree, ("sym", "pi"), number(Fraction(1, 180)))
            else:
                return tree

    def _script(self) -> Tree:
        """What follows ^: a group, a signed number or letter, or a command."""
        if self._peek() == "{":
            return self._group()
        sign = 1
        while self._peek() in ("+", "-"):
            sign *= -1 if self._next() == "-" else 1
        token = self._peek()
        if not token or token in "^_)]}!%":
            self._refuse()
        # x^10 in plain text means what it looks like; LaTeX would raise only the 1.
        exponent = self._group() if token == "{" else self._atom()
        return exponent if sign == 1 else ("mul", number(-1), exponent)

    def _group(self) -> Tree:
        self._expect("{")
        tree = self.sum()
        self._expect("}")
        return tree

    def _argument(self) -> Tree:
        r"""A braced argument, or one character as in \frac12."""
        if self._peek() == "{":
            return self._group()
        token = self._peek()
        if token[:1].isdigit():
            if len(token) > 1 and token.isdigit():
                self._tokens[self._at] = token[1:]
                return number(int(token[0]))
            self._at += 1
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
        token = self._next()
        if not token:
            self._refuse()
        if token[0].isdigit() or token[0] == ".":
            return self._number(token)
        if token in ("(", "[", "{", r"\{"):
            bars, self._bars = self._bars, 0
            tree = self.sum()
            self._bars = bars
            self._expect(_CLOSING[token])
            return tree
        if token in ("|", r"\|"):
            self._bars += 1
            tree = self.sum()
            self._bars -= 1
            self._expect(token)
            return ("fn", "abs", tree)
        if token[0] == "\\":
            return self._command(token[1:])
        if token.isalpha():
            return self._symbol(token)
        self._at -= 1
        self._refuse()

    def _number(self, token: str) -> Tree:
        value = _literal(token)
        mixed = self._take("&mixed")
        if token.isdigit() and self._peek() == r"\frac":
            part = self._mixed_part()
            if part is not None:
                return number(value[1] + part)
        if mixed:
            top = _literal(self._next())
            self._expect("/")
            bottom = _literal(self._next())
            if token.isdigit() and 0 < top[1] < bottom[1]:
                return number(value[1] + top[1] / bottom[1])
            self._refuse()
        return value

    def _mixed_part(self) -> Fraction | None:
        r"""The fraction of a mixed number such as 2\frac{1}{3}, if the next command is one."""
        start, tokens, depth = self._at, list(self._tokens), self._depth
        self._at += 1
        try:
            top, bottom = self._argument(), self._argument()
        except NotUnderstood:
            top = bottom = number(0)
            self._depth = depth
        if top[0] == bottom[0] == "num" and 0 < top[1] < bottom[1] and top[1].denominator == bottom[1].denominator == 1:
            return Fraction(top[1] / bottom[1])
        self._at, self._tokens = start, tokens
        return None

    def _symbol(self, name: str) -> Tree:
        if name in ("f", "g") and self._peek() == "(":
            self._at += 1
            inner = self.sum()
            self._expect(")")
            return ("fn", "unknown_" + name, inner)
        if name in ("C", "P") and self._peek() == "(":
            chosen = self._chosen(name)
            if chosen is not None:
                return chosen
        if self._take("_"):
            name += "_" + self._subscript()
        while self._take("'"):
            name += "'"
        return _CONSTANTS.get(name, ("sym", name))

    def _chosen(self, name: str) -> Tree | None:
        """C(8, 2) or P(8, 2), combinations or arrangements, if two numbers stand in the brackets."""
        start = self._at
        self._at += 1
        top = self._next()
        comma, bottom, closing = self._next(), self._next(), self._next()
        if not (top.isdigit() and comma == "," and bottom.isdigit() and closing == ")"):
            self._at = start
            return None
        n, k = _literal(top), _literal(bottom)
        chosen: Tree = ("fn", "binom", n, k)
        return chosen if name == "C" else ("mul", chosen, ("fn", "factorial", k))

    def _subscript(self) -> str:
        if not self._take("{"):
            return self._next()
        parts = []
        while self._peek() not in ("}", ""):
            parts.append(self._next())
        self._expect("}")
        return "".join(parts)

    def _command(self, name: str) -> Tree:
        if name == "frac":
            return ("mul", self._argument(), ("pow", self._argument(), number(-1)))
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return ("fn", "binom", self._argument(), self._argument())
        if name in ("lfloor", "lceil"):
            inner = self.sum()
            self._expect("\\r" + name[1:])
            return ("fn", "floor" if name == "lfloor" else "ceil", inner)
        if name in FUNCTIONS:
            return self._function(_ALIASES.get(name, name))
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in GREEK or name in ("ihat", "jhat", "khat"):
            return self._symbol("\\" + name)
        self._at -= 1
        self._refuse()

    def _root(self) -> Tree:
        index = number(2)
        if self._take("["):
            index = self.sum()
            self._expect("]")
        if self._peek()[:1].isdigit():
            # \sqrt12 means the root of 12, whatever TeX makes of it.
            return ("fn", "root", _literal(self._next()), index)
        return ("fn", "root", self._argument(), index)

    def _function(self, name: str) -> Tree:
        base = None
        if name == "log" and self._take("_"):
            base = self._argument()
        exponent = self._script() if self._take("^") else None
        arguments = self._function_arguments(name)
        if exponent == ("mul", number(-1), number(1)) and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        if base is not None:
            arguments.append(base)
        tree: Tree = ("fn", name, *arguments)
        return tree if exponent is None else ("pow", tree, exponent)

    def _function_arguments(self, name: str) -> list[Tree]:
        if self._peek() in ("(", "{", "["):
            closing = _CLOSING[self._next()]
            arguments = [self.sum()]
            while self._take(","):
                arguments.append(self.sum())
            self._expect(closing)
            return arguments
        if self._peek() == "|":
            return [self._power()]
        factors = [self._signed_power()]
        while self._starts_factor() and self._peek() not in ("(", "[") and self._peek()[1:] not in FUNCTIONS:
            factors.append(self._implicit(factors[-1]))
        while self._peek() == "/" and self._peek(1)[:1].isdigit() and name not in ("sqrt", "exp"):
            self._at += 1
            factors.append(("pow", self._atom(), number(-1)))
        return [factors[0] if len(factors) == 1 else ("mul", *factors)]


def _literal(token: str) -> Tree:
    if (not token[:1].isdigit() and token[:1] != ".") or len(token) > _MAX_DIGITS:
        raise NotUnderstood(token[:20])
    return number(Fraction(token.rstrip(".") if "e" not in token.lower() else token))
