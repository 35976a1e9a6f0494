"""Comparing: the rules that find two answers equal or different, and the structures they look at."""

from collections.abc import Callable
from dataclasses import dataclass

from expo_lite.settings.groups import Rounding

Result = tuple[bool, str]
"""The verdict (True if equal), and the name of what decided."""
Compare = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Scope:
    """The context of a rule: the comparison of two parts by all rules, and the caller's settings."""

    equal: Compare
    rounding: Rounding
    outermost: bool
