"""Statistics of graded samples: pass@k, majority votes and 95% intervals, in pure Python.

Intervals are over problems: completions of one problem are not independent, so its figure is one draw. A share of
problems and a mean of their figures have the same interval.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

_Z95 = 1.959963984540054
_T95 = (12.7062, 4.3027, 3.1824, 2.7764)
"""The 97.5% quantile of Student's t for 1 to 4 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    def text(self, *, scale: float = 100.0, digits: int = 1, signed: bool = False) -> str:
        """Return '31.2 (25.0 to 38.1)', or the value alone if the interval is a point; in percent by default."""
        value, low, high = (f"{scale * x:{'+' if signed else ''}.{digits}f}" for x in (self.value, self.low, self.high))
        return value if value == low == high else f"{value} ({low} to {high})"


def over_problems(values: Sequence[float], *, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """The mean over problems with its 95% interval: Student's, computed with one more problem at either end.

    A few problems that are nearly all solved, or nearly all failed, seldom include the one that differs, and an
    interval from their own spread is then too short. Two more problems, one with the lowest possible value and one with
    the highest, make up for that: simulated over 8 to 200 problems the interval covers the truth in at least 93%
    (`tests/test_intervals.py` prints the table). The idea is Agresti and Coull's for a proportion (The American
    Statistician 52, 1998) and Agresti and Min's for a paired difference (Statistics in Medicine 24, 2005); that it
    serves means of pass@k is our own finding. The value itself is the plain mean.

    Args:
        values: one figure per problem; for a paired comparison, the differences.
        lowest: the least possible value (-1 for differences). If the ends are infinite, nothing is added.
        highest: the greatest possible value.

    Returns:
        The mean, and an interval inside the two ends. Of no problem the value is 0 and the interval everything.
    """
    if not values:
        return Estimate(0.0, lowest, highest)
    centre = sum(values) / len(values)
    if math.isinf(lowest):
        return student(values) if len(values) > 1 else Estimate(centre, lowest, highest)
    wider = student([*values, lowest, highest])
    return within(Estimate(centre, wider.low, wider.high), lowest, highest)


def student(values: Sequence[float]) -> Estimate:
    """The mean with Student's 95% interval; of one value, that value alone."""
    n = len(values)
    centre = sum(values) / n
    if n == 1:
        return Estimate(centre, centre, centre)
    deviation = math.sqrt(sum((value - centre) ** 2 for value in values) / (n - 1))
    half = _t95(n - 1) * deviation / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half)


def _t95(df: int) -> float:
    """The 97.5% quantile of Student's t: Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5) from 5 on."""
    if df <= len(_T95):
        return _T95[df - 1]
    z = _Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / math.pow(df, power) for power, term in enumerate(terms, 1))


def over_seeds_and_problems(figures: Sequence[Sequence[float]], *, lowest: float = 0.0) -> Estimate:
    """The mean over seeds and problems, with a 95% interval that includes the chance of both.

    Seeds and problems are crossed: another seed would move all problems, other problems all seeds. So the distances of
    the intervals over the seeds' means and over the problems' means are added in quadrature. The part of the seeds
    assumes that their figures scatter about a mean. Where one run in ten collapses, three seeds without a
    collapse say nothing about it (simulated, the interval then holds the mean in a third of cases): look at each seed.

    Args:
        figures: by seed, then problem; for a paired comparison, the differences.
        lowest: the least possible value (-1 for differences); the greatest is 1.
    """
    seeds = student([sum(own) / len(own) for own in figures])
    problems = over_problems([sum(own) / len(own) for own in zip(*figures, strict=True)], lowest=lowest)
    return within(in_quadrature([seeds, problems], seeds.value), lowest, 1.0)


def in_quadrature(parts: Sequence[Estimate], value: float) -> Estimate:
    """A value with the interval of independent parts: their distances to either end, added in quadrature."""
    low = math.hypot(*(part.value - part.low for part in parts))
    high = math.hypot(*(part.high - part.value for part in parts))
    return Estimate(value, value - low, value + high)


def finite(value: Any) -> Any:
    """A value as JSON can hold it, which knows no infinity and no NaN: null in their place, in tables too."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def within(estimate: Estimate, lowest: float, highest: float) -> Estimate:
    """Cut the interval off at the lowest and the highest possible value."""
    return Estimate(estimate.value, max(estimate.low, lowest), min(estimate.high, highest))


def pass_at_k(n_samples: int, n_correct: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of pass@k (arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(n_samples - n_correct, k) / math.comb(n_samples, k)


def majority(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Return whether the most frequent answer is right; of t answers with equally many votes each counts 1/t.

    None casts no vote; without any vote the majority is wrong. An answer is right if it was judged so the first time.
    """
    rights: dict[Hashable, bool] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            rights.setdefault(answer, is_correct)
    votes = Counter(answer for answer in answers if answer is not None)
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(rights[answer] for answer in winners) / max(len(winners), 1)


def ks_up_to(n_samples: int) -> list[int]:
    """Return each k of pass@k for so many samples: 1, 4, 16, ..., and the number of samples."""
    powers = (4**i for i in range(n_samples.bit_length()))
    return sorted({*(k for k in powers if k < n_samples), n_samples})
