"""What samples say about a policy: pass@k, majority votes, and 95% intervals; pure Python.

Problems are the unit of chance. Completions of one problem go together, so intervals treat a problem's figure as one
draw: Wilson's where it is right or wrong, else a bootstrap over problems (clusters). Seeds are fixed: the same figures
give the same interval.
"""

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
        """'31.2 (25.0 to 38.1)'; the value alone where the interval is a point. In percent unless told otherwise."""
        value, low, high = (f"{scale * x:{'+' if signed else ''}.{digits}f}" for x in (self.value, self.low, self.high))
        return value if value == low == high else f"{value} ({low} to {high})"


def wilson(n_correct: int, n: int) -> Estimate:
    """A proportion with its 95% score interval (Wilson 1927); of nothing: 0, anywhere from 0 to 1."""
    if n == 0:
        return Estimate(0.0, 0.0, 1.0)
    p, z2 = n_correct / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends rounding would leave p outside by 1e-17
    return Estimate(p, 0.0 if n_correct == 0 else centre - half, 1.0 if n_correct == n else centre + half)


def bootstrap_mean(values: Sequence[float], *, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """The mean over problems with its 95% percentile bootstrap interval.

    Where all values are equal the bootstrap has nothing to vary and would claim certainty. Then the interval says that,
    with 95% confidence (Wilson), at most so many further problems have another value, and the worst that these could
    do.

    Args:
        values: one figure a problem; differences of two policies on the same problem for a paired comparison.
        lowest: the least that a value can be (-1 for differences).
        highest: the most that it can be.
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
    """The mean over up to ten seeds with Student's 95% interval; of one seed, its value as a point."""
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
    """The mean of a figure that each seed has for each of the same problems, with a 95% interval that carries both.

    Seeds and problems are crossed: another seed would have moved all problems, other problems all seeds. So the two
    distances are added in quadrature: Student's over the seeds' means, and the bootstrap's over the problems' means.
    With one seed it is the problems' alone. No end leaves what a value can be.

    Args:
        figures: by seed, then problem; differences of two policies for a paired comparison.
        lowest: the least that a value can be (-1 for differences).
        highest: the most that it can be.
    """
    seeds = over_seeds([sum(own) / len(own) for own in figures])
    problems = bootstrap_mean(
        [sum(own) / len(own) for own in zip(*figures, strict=True)], lowest=lowest, highest=highest
    )
    return within(in_quadrature([seeds, problems], seeds.value), lowest, highest)


def in_quadrature(parts: Sequence[Estimate], value: float) -> Estimate:
    """A value whose distances to either end are those of independent parts, added as the root of their squares."""
    low = math.hypot(*(part.value - part.low for part in parts))
    high = math.hypot(*(part.high - part.value for part in parts))
    return Estimate(value, value - low, value + high)


def within(estimate: Estimate, lowest: float, highest: float) -> Estimate:
    """The estimate with its ends cut off where no value can be."""
    return Estimate(estimate.value, max(estimate.low, lowest), min(estimate.high, highest))


def pass_at_k(n_samples: int, n_correct: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of pass@k (arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(n_samples - n_correct, k) / math.comb(n_samples, k)


def majority_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """How often the majority of k answers is right: the mean over all C(n, k) subsets of the n answers.

    None means no answer, and casts no vote; without any vote the subset is wrong. Of t answers with equally many votes
    each wins with chance 1/t. An answer counts as right if it was judged so the first time.

    The subsets are counted, not listed. For each number v of votes that can win: an answer given fewer than v times can
    never reach v, so any of its votes may be in the subset, and answers given v times or more are gone through one by
    one, counting the ways to have `used` votes of them with `tied` of them at v.
    """
    first: dict[Hashable, bool] = {}
    counts: dict[Hashable, int] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            first.setdefault(answer, is_correct)
            counts[answer] = counts.get(answer, 0) + 1
    votes = tuple(sorted((count, first[answer]) for answer, count in counts.items()))
    return _majority(len(answers), votes, k)


@lru_cache(maxsize=4096)
def _majority(n: int, votes: tuple[tuple[int, bool], ...], k: int) -> float:
    if not any(right for _, right in votes):
        return 0.0
    won = 0.0
    for v in range(1, k + 1):
        able = [(count, right) for count, right in votes if count >= v]
        if not able:
            break
        others = n - sum(count for count, _ in able)
        for (used, tied), (_, n_right) in _ways(able, v, k).items():
            if tied:
                won += n_right * math.comb(others, k - used) / tied / math.comb(n, k)
    return won


def _ways(able: Sequence[tuple[int, bool]], v: int, k: int) -> dict[tuple[int, int], tuple[int, int]]:
    """By votes used and answers tied at v: the number of ways, and the right tied answers summed over them."""
    ways = {(0, 0): (1, 0)}
    for count, right in able:
        grown: dict[tuple[int, int], tuple[int, int]] = {}
        for (used, tied), (n_ways, n_right) in ways.items():
            for taken in range(min(v, k - used) + 1):
                at_v = taken == v
                m = math.comb(count, taken)
                key = (used + taken, tied + at_v)
                before = grown.get(key, (0, 0))
                grown[key] = (before[0] + m * n_ways, before[1] + m * (n_right + n_ways * (at_v and right)))
        ways = grown
    return ways
