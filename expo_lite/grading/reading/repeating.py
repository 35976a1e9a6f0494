r"""Endless decimals, and degrees in minutes and seconds, as fractions: 0.1\overline{6}, 0.333..., 30°15'."""

import re
from fractions import Fraction

_BARRED = re.compile(r"(?<![\d.,])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot) ?\{ ?(\d{1,12}) ?\}(?!\d)")
_DOTTED = re.compile(r"(?<![\d.,])(\d{0,9})\.(\d{0,9})\\dot ?\{?(\d)\}?(\d{0,10})\\dot ?\{?(\d)\}?(?!\d)")
_TRAILING = re.compile(r"(?<![\d.,])(\d{0,9})\.(\d{0,9}?)((\d{1,6}?)\4+) ?(?:\.\.\.|\\dots)")
_SEXAGESIMAL = re.compile(r"(?<![\d.])(\d{1,3}) ?\\degree ?(\d{1,2}) ?'(?: ?(\d{1,2}) ?(?:''|\"))?(?![\d'])")


def as_fractions(text: str) -> str:
    """The text with such numbers written as fractions; what only looks like one stays."""
    if "." in text:
        text = _BARRED.sub(lambda found: _fraction(found[1], found[2], found[3]), text)
        text = _DOTTED.sub(lambda found: _fraction(found[1], found[2], found[3] + found[4] + found[5]), text)
        text = _TRAILING.sub(_trailing, text)
    return _SEXAGESIMAL.sub(_degrees, text) if "'" in text else text


def _fraction(whole: str, before: str, block: str) -> str:
    """The value of whole.before(block)(block)... in lowest terms."""
    repeats = int("9" * len(block)) * 10 ** len(before)
    value = Fraction(int(whole or 0)) + Fraction(int(before or 0), 10 ** len(before)) + Fraction(int(block), repeats)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _trailing(found: re.Match[str]) -> str:
    """Two equal digits may be chance, as in 2.44948...; three are meant."""
    return _fraction(found[1], found[2], found[4]) if len(found[3]) >= 3 else found[0]


def _degrees(found: re.Match[str]) -> str:
    degrees, minutes, seconds = (int(part or 0) for part in found.groups())
    value = Fraction(degrees * 3600 + minutes * 60 + seconds, 3600)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}\\degree "
