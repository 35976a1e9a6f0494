"""Statistics against brute force and against scipy."""

import itertools
import math
import random
import statistics

import numpy
import pytest
import scipy.stats

from expo_lite.results.statistics import Estimate, bootstrap_mean, ks_up_to, majority, pass_at_k, wilson


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


@pytest.mark.parametrize("n", [1, 7, 5_000])
def test_wilson_equals_scipy(n: int) -> None:
    for c in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        interval = scipy.stats.binomtest(c, n).proportion_ci(0.95, method="wilson")
        estimate = wilson(c, n)
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((c / n, *interval), abs=1e-12)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_bootstrap_agrees_with_scipy() -> None:
    rng = random.Random(3)
    for n, lowest in ((30, 0.0), (200, 0.0), (60, -1.0)):
        values = [rng.choice([lowest, 0.0, 0.25, 0.5, 1.0]) for _ in range(n)]
        theirs = scipy.stats.bootstrap(
            (values,), numpy.mean, n_resamples=20_000, method="percentile", rng=7
        ).confidence_interval
        ours = bootstrap_mean(values, lowest=lowest)
        assert ours.value == pytest.approx(statistics.fmean(values))
        # a percentile of 2,000 draws wavers by a few hundredths of the standard error
        tolerance = 0.2 * statistics.stdev(values) / math.sqrt(n)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=tolerance)
        assert bootstrap_mean(values, lowest=lowest) == ours  # and again the same


def test_equal_values_claim_no_certainty() -> None:
    assert bootstrap_mean([0.0] * 20).high == pytest.approx(wilson(0, 20).high)
    assert bootstrap_mean([1.0] * 20).low == pytest.approx(wilson(20, 20).low)
    none_differs = bootstrap_mean([0.0] * 20, lowest=-1.0)
    assert none_differs.value == 0.0
    assert -none_differs.low == pytest.approx(none_differs.high) == pytest.approx(wilson(0, 20).high)
    assert bootstrap_mean([]) == Estimate(0.0, 0.0, 1.0)
