"""Statistics against brute force, scipy and, for the intervals, simulation."""

import itertools
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import scipy.stats

from expo_lite.results.statistics import Estimate, ks_up_to, majority, over_problems, pass_at_k, student


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_mean_over_all_subsets(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        outcomes = [True] * c + [False] * (n - c)
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_by_hand_and_of_many_samples() -> None:
    assert pass_at_k(4, 1, 2) == 0.5  # 3 of 6 pairs have the right one
    assert pass_at_k(10_000, 0, 64) == 0.0
    assert pass_at_k(10_000, 10_000, 64) == 1.0
    assert 0 < pass_at_k(10_000, 1, 64) == pytest.approx(0.0064)


def test_majority_by_hand() -> None:
    votes, right = ["7", "7", "8", "8", None], [True, True, False, False, False]
    assert majority(votes, right) == 0.5  # a tie of two
    assert majority(["8", "7", "7"], [False, True, False]) == 1.0  # an answer is what it was judged first
    assert majority(["7"] * 3 + ["8"] * 4, [True] * 3 + [False] * 4) == 0.0
    assert majority(["7", None, None], [True, False, False]) == 1.0  # no answer casts no vote
    assert majority([None, None], [False, False]) == 0.0


def test_which_k_there_are() -> None:
    assert [ks_up_to(n) for n in (1, 2, 4, 16, 20, 64)] == [
        [1], [1, 2], [1, 4], [1, 4, 16], [1, 4, 16, 20], [1, 4, 16, 64],
    ]  # fmt: skip


def test_students_interval_equals_scipy() -> None:
    for n in (*range(2, 14), 30, 300):
        values = [1.0, *(float(i * i) for i in range(n - 1))]
        theirs = scipy.stats.t.interval(0.95, n - 1, statistics.fmean(values), scipy.stats.sem(values))
        got = student(values)
        assert (got.low, got.high) == pytest.approx(tuple(theirs), abs=1e-4 * (theirs[1] - theirs[0]))


def test_over_problems_by_hand() -> None:
    # 0, 1/2 and the two ends: mean 3/8, variance (9 + 1 + 25 + 9) / 64 / 3, t of 3 degrees 3.1824
    half = 3.1824 * math.sqrt(44 / 192 / 4)
    assert over_problems([0.0, 0.5]) == Estimate(0.25, 0.0, 1.0)  # cut at the ends
    assert half == pytest.approx(0.7617, abs=1e-3)
    # ten zeros and the two ends: mean 1/12, variance 11/12 / 11
    ten = over_problems([0.0] * 10)
    assert (ten.value, ten.low) == (0.0, 0.0)
    assert ten.high == pytest.approx(1 / 12 + scipy.stats.t.ppf(0.975, 11) / 12, rel=1e-4)
    # ten differences of zero, with -1 and 1: mean 0, variance 2/11
    same = over_problems([0.0] * 10, lowest=-1.0)
    assert (
        -same.low
        == pytest.approx(same.high)
        == pytest.approx(scipy.stats.t.ppf(0.975, 11) * math.sqrt(2 / 132), rel=1e-4)
    )


def test_over_problems_at_the_ends() -> None:
    assert over_problems([]) == Estimate(0.0, 0.0, 1.0)
    for n in (1, 2, 60, 1_000):
        solved, failed = over_problems([1.0] * n), over_problems([0.0] * n)
        assert solved.value == solved.high == 1.0 > solved.low == pytest.approx(1.0 - failed.high)
        assert over_problems([1.0] * n, lowest=-1.0).high == 1.0
    unbounded = {"lowest": -math.inf, "highest": math.inf}
    assert over_problems([3.0], **unbounded) == Estimate(3.0, -math.inf, math.inf)
    assert over_problems([3.0, 5.0, 4.0], **unbounded) == student([3.0, 5.0, 4.0])


SHAPES: dict[str, Callable[[numpy.random.Generator, int], Any]] = {
    "5% hopeless, the rest 0.5": lambda rng, n: numpy.where(rng.random(n) < 0.05, 0.0, 0.5),
    "10% hopeless, the rest 0.3": lambda rng, n: numpy.where(rng.random(n) < 0.1, 0.0, 0.3),
    "1% hopeless, the rest 0.9": lambda rng, n: numpy.where(rng.random(n) < 0.01, 0.0, 0.9),
    "5% solved, the rest never": lambda rng, n: numpy.where(rng.random(n) < 0.05, 1.0, 0.0),
    "2% solved, the rest 0.002": lambda rng, n: numpy.where(rng.random(n) < 0.02, 1.0, 0.002),
    "most near 0": lambda rng, n: rng.beta(0.1, 0.9, n),
    "most near 1": lambda rng, n: rng.beta(0.9, 0.1, n),
    "both ends": lambda rng, n: rng.beta(0.5, 0.5, n),
    "uniform": lambda rng, n: rng.random(n),
    "all 0.5": lambda rng, n: numpy.full(n, 0.5),
    "all 0.01": lambda rng, n: numpy.full(n, 0.01),
    "all 0.99": lambda rng, n: numpy.full(n, 0.99),
}
"""A policy's chance on each of n problems."""
CHANGES: dict[str, Callable[[numpy.random.Generator, Any], Any]] = {
    "the same chances": lambda rng, p: p,
    "3% of problems gained": lambda rng, p: numpy.where(rng.random(len(p)) < 0.03, 1.0, p),
    "3% of problems lost": lambda rng, p: numpy.where(rng.random(len(p)) < 0.03, 0.0, p),
    "nearly all gained": lambda rng, p: numpy.where(rng.random(len(p)) < 0.04, p, 0.99),
    "half gained a little": lambda rng, p: numpy.where(rng.random(len(p)) < 0.5, numpy.minimum(p + 0.3, 1.0), p),
    "a tenth turned round": lambda rng, p: numpy.where(rng.random(len(p)) < 0.1, 1.0 - p, p),
}
"""Another policy's chance on the problems of the first."""
SIZES = (8, 16, 32, 50, 100, 200)


def coverage(n: int, interval: Callable[..., Estimate], *, paired: bool, draws: int) -> dict[str, float]:
    """The share of draws whose interval holds the truth, by shape and k: 16 samples of each of n problems."""
    rng, covered = numpy.random.default_rng(n), {}
    changes = CHANGES if paired else {"": lambda rng, p: p * 0}
    lowest = -1.0 if paired else 0.0
    for (shape, chances), (change, changed) in itertools.product(SHAPES.items(), changes.items()):
        many = chances(rng, 200_000)
        after = changed(rng, many) if paired else many
        p = many[: n * draws] if n * draws <= 200_000 else chances(rng, n * draws)
        q = changed(rng, p) if paired else p
        first, second = rng.binomial(16, p).reshape(draws, n), rng.binomial(16, q).reshape(draws, n)
        for k in (1, 4, 16):
            table = numpy.array([pass_at_k(16, c, k) for c in range(17)])
            truth = float(numpy.mean(1 - (1 - after) ** k))
            values = table[second]
            if paired:
                truth -= float(numpy.mean(1 - (1 - many) ** k))
                values = values - table[first]
            found = [interval(row, lowest=lowest) for row in values.tolist()]
            inside = sum(e.low - 1e-9 <= truth <= e.high + 1e-9 for e in found)
            covered[f"{shape}, {change or 'alone'}, pass@{k}"] = inside / draws
    return covered


@pytest.mark.slow  # five minutes
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("paired", [False, True])
def test_intervals_cover_what_they_say(n: int, paired: bool) -> None:
    covered = coverage(n, over_problems, paired=paired, draws=1_000)
    # 1,000 draws waver by 0.7 points: 93% less two and a half times as much
    assert min(covered.values()) >= 0.93 - 0.0175, min(covered.items(), key=lambda item: item[1])
    assert statistics.fmean(covered.values()) >= 0.95


def test_the_simulation_finds_an_interval_that_is_too_narrow() -> None:
    covered = coverage(16, lambda values, lowest: student(values), paired=False, draws=200)
    assert min(covered.values()) < 0.8
    assert coverage(16, over_problems, paired=False, draws=200)["5% hopeless, the rest 0.5, alone, pass@16"] > 0.9


if __name__ == "__main__":  # the table of examples/guides/reports.md
    for pairs, size in itertools.product((False, True), SIZES):
        cells = coverage(size, over_problems, paired=pairs, draws=2_000)
        low, middle = min(cells.values()), statistics.fmean(cells.values())
        kind = "difference" if pairs else "mean"
        sys.stdout.write(f"| {kind} | {size} | {len(cells)} | {100 * middle:.1f}% | {100 * low:.1f}% |\n")
