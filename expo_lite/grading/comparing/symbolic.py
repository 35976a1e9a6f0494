"""What only a worker runs: comparison by value, and math-verify where our grammar does not read the answer."""

import random
import re
from typing import Any

import sympy
from math_verify import parse, verify

from expo_lite.grading.comparing import identity
from expo_lite.grading.comparing.compare import judge
from expo_lite.grading.comparing.leaves import Outcome
from expo_lite.grading.reading.latex import NEWLINE
from expo_lite.grading.reading.normalise import normalise
from expo_lite.settings.groups import Rounding

_MAX_CHARS = 600
_PROBES = 4
# It reads the part of an answer that it understands: "5+" is 5 to it. So it is asked only about what our grammar lacks.
_BEYOND_US = re.compile(r"\\(?:sum|prod|i{1,3}nt|oint|lim|begin|cup|cap|setminus|Gamma|zeta)(?![a-z])")
_ATOM = re.compile(r"\d+|(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_MAX_ATOMS = 30
_CUT_OFF = re.compile(
    r"^ ?(?:[*/^=<>]|\\(?:times|cdot|div|l[te]|g[te]|ne|cup|cap|setminus)(?![A-Za-z]))|\{ ?\}"
    r"|(?:[-+*/^=<>_]|\\(?:times|cdot|div|pm|sum|prod|i{1,3}nt|oint|lim|cup|cap|setminus)) ?$"
)


def warm_up() -> None:
    """Load everything once."""
    math_verify_alone("1/2", r"\boxed{0.5}")
    equal_deeply(r"\sqrt{8}", r"2\sqrt{2}")
    equal_deeply(r"\sum_{k=1}^{2} k", "3")  # what sympy loads late, a tenth of a second each
    equal_deeply(r"\int_0^1 x\,dx", r"\frac{1}{2}")


def math_verify_alone(gold: str, completion: str) -> bool:
    """What math-verify says by itself, with its time limits off, since the worker can be killed."""
    return bool(verify(_read(f"${gold}$"), _read(completion), timeout_seconds=None))


def _read(text: str) -> list[Any]:
    return list(parse(text, parsing_timeout=None))


def equal_deeply(gold: str, answer: str, *, rounding: Rounding = "never") -> tuple[bool, str]:
    """Whether the answers are equal, and the name of the step that says so."""
    outcome, how = judge(gold, answer, identity, rounding=rounding)
    if outcome is Outcome.OPEN and _math_verify_guarded(normalise(gold), normalise(answer)):
        return True, "math_verify"
    return outcome is Outcome.EQUAL, how if outcome is not Outcome.OPEN else "nothing_found"


def _math_verify_guarded(gold: str, answer: str) -> bool:
    r"""math-verify, believed only where evaluating what it parsed does not contradict it.

    It calls 1/2^99 and 1/2^98 equal, and 4 and 4\sqrt(2), and one line and another.
    """
    if len(gold) + len(answer) > _MAX_CHARS or r"\text" in gold + answer or not _BEYOND_US.search(gold + " " + answer):
        return False
    if any(_CUT_OFF.search(text) for text in (gold, answer)):
        return False
    sides = [_forms(text) for text in (gold, answer)]
    if not all(sides):
        return False
    return _agree(sides[0][0], sides[1][0]) and _is_read_whole(gold) and _is_read_whole(answer)


def _forms(normalised: str) -> list[Any]:
    """What math-verify makes of an answer, without what it only copies."""
    text = normalised.replace(NEWLINE, " BACKSLASHES ").replace(" BACKSLASHES ", chr(92) * 2)
    return [form for form in _read(f"${text}$") if not isinstance(form, str)]


def _is_read_whole(text: str) -> bool:
    r"""Whether each number and variable makes a difference to what math-verify reads: of "3 \cup 4" it reads 3."""
    read = _forms(text)[:1]
    tokens = list(_ATOM.finditer(text))
    if len(tokens) > _MAX_ATOMS:
        return False
    for token in tokens:
        atom = token.group()
        other = str(int(atom) + 1) if atom.isdigit() else "w" if atom != "w" else "v"
        if _forms(text[: token.start()] + other + text[token.end() :])[:1] == read:
            return False
    return True


def _agree(first: Any, second: Any) -> bool:
    """Whether evaluating what math-verify read does not contradict that it is equal."""
    one, other = (_multiplied_out(form) for form in (first, second))
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return one.shape == other.shape and all(_same_everywhere(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr):
        return _same_everywhere(one, other)
    if not bool(verify(one, other, timeout_seconds=None)):
        return False
    if isinstance(one, sympy.Eq) and isinstance(other, sympy.Eq):
        return _same_ratio(one.lhs - one.rhs, other.lhs - other.rhs)
    return type(one) is type(other)


def _multiplied_out(form: Any) -> Any:
    return sympy.ImmutableMatrix(form.doit()) if isinstance(form, sympy.MatrixExpr | sympy.MatrixBase) else form


def _probes(names: list[Any], *, whole: bool = False) -> list[dict[Any, Any]]:
    """Values for the variables; whole ones where they may be limits of a sum."""
    draw = random.Random(0)  # noqa: S311 - fixed test points
    if whole:
        return [{name: sympy.Integer(draw.randint(3, 12)) for name in names} for _ in range(_PROBES)]
    return [{name: sympy.Rational(draw.randint(20, 400), 97) for name in names} for _ in range(_PROBES)]


def _same_everywhere(one: Any, other: Any) -> bool:
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    if one.free_symbols != other.free_symbols:
        return False
    whole = any(side.has(sympy.Sum, sympy.Product) for side in (one, other))
    for probe in _probes(names, whole=whole) if names else [{}]:
        a, b = (side.subs(probe).doit().evalf(60) for side in (one, other))
        if not (a.is_number and b.is_number) or a.has(sympy.nan, sympy.zoo) or b.has(sympy.nan, sympy.zoo):
            return False
        if a != b and not bool(abs(a - b) <= sympy.Float(10) ** -45 * max(abs(a), abs(b))):
            return False
    return True


def _same_ratio(one: Any, other: Any) -> bool:
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    ratios = [one.subs(probe).evalf(40) / other.subs(probe).evalf(40) for probe in _probes(names)]
    return bool(names) and all(bool(abs(ratio / ratios[0] - 1) < sympy.Float(10) ** -25) for ratio in ratios)
