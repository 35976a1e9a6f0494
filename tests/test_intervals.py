"""Statistics against brute force and against scipy."""

import itertools
import math
import random
import statistics
from collections import Counter
from fractions import Fraction

import pytest
import scipy.stats

from expo_lite.results.statistics import Estimate, bootstrap_mean, majority_at_k, pass_at_k, wilson


@pytest.mark.parametrize("n", range(1, 8))
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


def vote(subset: list[tuple[str | None, bool]], rights: dict[str | None, bool]) -> Fraction:
    """The plain way: count, find who is ahead, share among those tied."""
    counts = Counter(answer for answer, _ in subset if answer is not None)
    if not counts:
        return Fraction(0)
    winners = [answer for answer, count in counts.items() if count == max(counts.values())]
    return Fraction(sum(rights[answer] for answer in winners), len(winners))


@pytest.mark.parametrize("seed", range(40))
def test_majority_at_k_is_the_mean_over_all_subsets(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(1, 9)
    names = [None, "a", "b", "c", "d", "e"][: rng.randint(1, 6)]
    rights: dict[str | None, bool] = {name: rng.random() < 0.4 for name in names if name}
    rows = [(name, rights.get(name, False)) for name in rng.choices(names, k=n)]
    for k in range(1, n + 1):
        subsets = [vote(list(subset), rights) for subset in itertools.combinations(rows, k)]
        expected = float(sum(subsets) / len(subsets))
        assert majority_at_k([a for a, _ in rows], [c for _, c in rows], k) == pytest.approx(expected, abs=1e-12)


def test_majority_by_hand() -> None:
    votes, right = ["7", "7", "8", "8", None], [True, True, False, False, False]
    assert majority_at_k(votes, right, 5) == 0.5  # a tie of two
    assert majority_at_k(votes, right, 1) == pytest.approx(2 / 5)  # one sample: how often it is right
    assert majority_at_k([None, None], [False, False], 2) == 0.0
    assert majority_at_k(["7"] * 3 + ["8"] * 2, [True] * 3 + [False] * 2, 5) == 1.0


def test_majority_of_many_agrees_with_drawn_subsets_and_ignores_order() -> None:
    rng = random.Random(5)
    answers: list[str | None] = [rng.choice(["7", "7", "8", "9", "10", "11", None]) for _ in range(64)]
    rights = [answer == "7" for answer in answers]
    exact = majority_at_k(answers, rights, 16)
    rows = list(zip(answers, rights, strict=True))
    drawn = [vote(rng.sample(rows, 16), {a: a == "7" for a in answers if a}) for _ in range(3_000)]
    assert exact == pytest.approx(float(sum(drawn) / len(drawn)), abs=0.02)
    shuffled = rng.sample(rows, len(rows))
    assert majority_at_k([a for a, _ in shuffled], [c for _, c in shuffled], 16) == exact


@pytest.mark.parametrize("n", [1, 2, 7, 40, 5_000])
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
            (values,), statistics.fmean, n_resamples=20_000, method="percentile", vectorized=False, rng=7
        ).confidence_interval
        ours = bootstrap_mean(values, lowest=lowest)
        assert ours.value == pytest.approx(statistics.fmean(values))
        # a percentile of 2,000 draws wavers by a few hundredths of the standard error
        tolerance = 0.2 * statistics.stdev(values) / math.sqrt(n)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=tolerance)
        assert bootstrap_mean(values, lowest=lowest) == ours  # and again the same


def test_bootstrap_covers_the_true_mean() -> None:
    rng = random.Random(11)
    trials = 100
    covered = 0
    for _ in range(trials):
        estimate = bootstrap_mean([rng.choice([0.0, 0.0, 0.5, 1.0]) for _ in range(60)])
        covered += estimate.low <= 0.375 <= estimate.high
    assert covered >= 0.88 * trials


def test_equal_values_claim_no_certainty() -> None:
    assert bootstrap_mean([0.0] * 20).high == pytest.approx(wilson(0, 20).high)
    assert bootstrap_mean([1.0] * 20).low == pytest.approx(wilson(20, 20).low)
    none_differs = bootstrap_mean([0.0] * 20, lowest=-1.0)
    assert none_differs.value == 0.0
    assert -none_differs.low == pytest.approx(none_differs.high) == pytest.approx(wilson(0, 20).high)
    assert bootstrap_mean([]) == Estimate(0.0, 0.0, 1.0)
