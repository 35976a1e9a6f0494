"""Small curves of characters, and times as a clock shows them."""

import itertools
from collections.abc import Sequence

_SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """A row of small bars, for values between 0 and 1."""
    return "".join(_SPARKS[min(int(value * len(_SPARKS)), len(_SPARKS) - 1)] for value in values)


def binned(values: Sequence[float], n_bins: int) -> list[float]:
    """Means of at most `n_bins` stretches of about equal length; an empty list where there are no values."""
    n_bins = min(n_bins, len(values))
    if not values:
        return []
    edges = [round(i * len(values) / n_bins) for i in range(n_bins + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def clock(seconds: float) -> str:
    """'0:42', '12:05', '3:20:00'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
