"""Statistics of graded samples: pass@k, majority votes and 95% intervals, in pure Python.

Intervals are over problems: completions of one problem are not independent, so its figure is one draw. If every problem
is right or wrong the interval is Wilson's, else a bootstrap over problems. Seeds are fixed, so the same figures always
give the same interval.
"""

import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

BOOTSTRAP_DRAWS = 2_000
_Z95 = 1.959963984540054
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""Student's t for 1 to 9 degrees of freedom."""


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


def wilson(n_correct: int, n: int) -> Estimate:
    """A proportion with its 95% score interval (Wilson 1927); of no problems, 0 with the interval 0 to 1."""
    if n == 0:
        return Estimate(0.0, 0.0, 1.0)
    p, z2 = n_correct / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends rounding would leave p outside by 1e-17
    return Estimate(p, 0.0 if n_correct == 0 else centre - half, 1.0 if n_correct == n else centre + half)


def bootstrap_mean(values: Sequence[float], *, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """The mean over problems with its 95% percentile bootstrap interval.

    If all values are equal, the bootstrap would claim certainty. The interval then assumes that the share of problems
    with another value is as large as Wilson's interval allows, and that these have the lowest or highest value.

    Args:
        values: one figure per problem; for a paired comparison, the differences.
        lowest: the least possible value (-1 for differences).
        highest: the greatest possible value.
    """
    n = len(values)
    if n == 0:
        return Estimate(0.0, lowest, highest)
    centre = sum(values) / n
    if all(value == values[0] for value in values):
        like_these = wilson(n, n).low
        low, high = (like_these * values[0] + (1 - like_these) * end for end in (lowest, highest))
        return Estimate(values[0], low, high)
    rng = random.Random(0)  # noqa: S311
    means = sorted(sum(rng.choices(values, k=n)) / n for _ in range(BOOTSTRAP_DRAWS))
    tail = round(0.025 * BOOTSTRAP_DRAWS)
    return Estimate(centre, means[tail], means[-tail - 1])


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over up to ten seeds with Student's 95% interval; of one seed, its value alone."""
    n = len(values)
    centre = sum(values) / n
    if n == 1:
        return Estimate(centre, centre, centre)
    deviation = math.sqrt(sum((value - centre) ** 2 for value in values) / (n - 1))
    half = _T95[min(n - 1, len(_T95)) - 1] * deviation / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half)


def over_seeds_and_problems(
    figures: Sequence[Sequence[float]], *, lowest: float = 0.0, highest: float = 1.0
) -> Estimate:
    """The mean over seeds and problems, with a 95% interval that includes the chance of both.

    Seeds and problems are crossed: another seed would move all problems, other problems all seeds. So the distances of
    Student's interval over the seeds' means and of the bootstrap's over the problems' means are added in quadrature.

    Args:
        figures: by seed, then problem; for a paired comparison, the differences.
        lowest: the least possible value (-1 for differences).
        highest: the greatest possible value.
    """
    seeds = over_seeds([sum(own) / len(own) for own in figures])
    problems = bootstrap_mean(
        [sum(own) / len(own) for own in zip(*figures, strict=True)], lowest=lowest, highest=highest
    )
    return within(in_quadrature([seeds, problems], seeds.value), lowest, highest)


def in_quadrature(parts: Sequence[Estimate], value: float) -> Estimate:
    """A value with the interval of independent parts: their distances to either end, added in quadrature."""
    low = math.hypot(*(part.value - part.low for part in parts))
    high = math.hypot(*(part.high - part.value for part in parts))
    return Estimate(value, value - low, value + high)


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
