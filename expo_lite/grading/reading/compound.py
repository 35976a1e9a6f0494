"""Quantities in several units at once: 2 hours 30 minutes is 150 minutes, 5 feet 6 inches is 66 inches."""

import itertools
import re
from fractions import Fraction

from expo_lite.grading.reading.unit_names import lookup

_PART = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?) ?(?:\\text\{ ?)?([A-Za-z]{1,12})\.?(?: ?\})?(?:,? ?(?:\\text\{ ?)?and(?: ?\})?|,)? ?"
)
_MAX_PARTS = 4


def in_one_unit(text: str, *, first: bool = False) -> str:
    """The quantity in the last (or the first) of its units; a text that is no such quantity stays as it is."""
    parts: list[tuple[Fraction, str, Fraction, str]] = []
    position = 0
    while position < len(text) and len(parts) <= _MAX_PARTS:
        found = _PART.match(text, position)
        unit = lookup(found.group(2)) if found is not None else None
        if found is None or unit is None:
            return text
        parts.append((Fraction(found.group(1)), unit[0], unit[1], found.group(2)))
        position = found.end()
    kinds, factors = {kind for _, kind, _, _ in parts}, [factor for _, _, factor, _ in parts]
    if not 2 <= len(parts) <= _MAX_PARTS or len(kinds) != 1 or not _falls(factors):
        return text
    chosen = parts[0] if first else parts[-1]
    total = sum((value * factor for value, _, factor, _ in parts), Fraction(0)) / chosen[2]
    number = str(total) if total.denominator == 1 else f"{total.numerator}/{total.denominator}"
    return f"{number} {chosen[3]}"


def _falls(factors: list[Fraction]) -> bool:
    return all(one > other for one, other in itertools.pairwise(factors))
