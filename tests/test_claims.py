"""Every claim and question can hold, fail, and be undecided, by figures that are made here."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expo_lite.records import ALL
from expo_lite.results.figures import Evaluation, LevelResult, ProblemResult
from expo_lite.results.statistics import Estimate, over_seeds_and_problems, student
from expo_lite.settings.plans import ReplicateConfig
from expo_lite.sweep.claims import Claim, ClaimVerdict, Part, better, judge_claims, undecidable
from expo_lite.sweep.plan import REPLICATE, read_plan
from expo_lite.sweep.report import figures_by_level, part_json
from expo_lite.sweep.results import BASE, Results, RunResult, change

HOLDS, FAILS, UNDECIDED = ClaimVerdict.HOLDS, ClaimVerdict.FAILS, ClaimVerdict.UNDECIDED
N = 100
"""Problems a level, so that a share in percent is a number of problems."""
SEEDS = (0, 1, 2)


def evaluation(easy: float, hard: float) -> Evaluation:
    """Two levels of 100 problems, of which these shares are solved in all of 8 samples."""
    problems = [
        ProblemResult(f"{level}-{i}", level, True, 8 if i < round(N * share) else 0, 8)
        for level, share in ((1, easy), (2, hard))
        for i in range(N)
    ]
    some = Estimate(0.0, 0.0, 1.0)
    levels = tuple(
        LevelResult(name, N, 8, some, some, {4: some}, {4: some}, 0.0, 0.0, 0.0, 0.0, {}) for name in ("1", "2", ALL)
    )
    return Evaluation(levels, 0.7, (), tuple(problems))


START = evaluation(0.95, 0.02)


def run(hard: float, easy: float = 0.95, **metrics: list[float]) -> RunResult:
    steps = max((len(values) for values in metrics.values()), default=0)
    rows = [{name: values[i] for name, values in metrics.items()} for i in range(steps)]
    return RunResult(START, evaluation(easy, hard), rows)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def diagnosis(ratio: float = 2.1, gain: float = 2.0) -> dict[str, Any]:
    return {
        "lift_gain": {"explanation": estimate(gain), "unfiltered": estimate(gain)},
        "nll_ratio": estimate(ratio),
    }


SOUND = {
    "grpo-hard": run(0.02, frac_all_wrong=[1.0] * 8),
    "formula-hard": run(0.5, frac_all_wrong=[1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.5, 0.3]),
    "grpo": run(0.02),
    "gt-sft-grpo": run(0.2),
    "formula": run(0.5),
    "formula-0.5": run(0.0, easy=0.6),
    "dpo-offline": run(0.3),
    "dpo-offline-expert": run(0.02, dpo_loss=[0.69, 0.6, 0.4, 0.2]),
    "dpo-online": run(0.6),
    "dpo-online-expert": run(0.05),
    "formula-wrong-answer": run(0.02),
}


def made(
    changed: dict[str, RunResult] | None = None, figures: dict[str, float] | None = None, seeds: Sequence[int] = SEEDS
) -> Results:
    """Sound runs for every seed, but for those changed."""
    runs = {name: dict.fromkeys(seeds, own) for name, own in (SOUND | (changed or {})).items()}
    return Results(runs, {seed: diagnosis(**(figures or {})) for seed in seeds}, 4)


def outcomes(results: Results) -> dict[int, Claim]:
    return {claim.number: claim for claim in judge_claims(results)}


def test_the_claims_are_about_runs_of_the_plan() -> None:
    assert set(SOUND) <= set(read_plan(Path(REPLICATE), ReplicateConfig(model="tiny")).runs)


def test_too_few_problems_are_said_before_the_runs() -> None:
    """Of 24 problems without a change the interval reaches 11 points, of 40 it reaches 7; 10 points are the bound."""
    assert "claims 1, 2 and 8 can fail, but not hold" in str(undecidable(24))
    assert undecidable(40) is None
    for quick in (False, True):
        plan = read_plan(Path(REPLICATE), ReplicateConfig(model="tiny", quick=quick))
        assert undecidable(plan.any_config.evaluation.eval_problems) is None


def test_all_hold() -> None:
    assert {number: outcome.verdict for number, outcome in outcomes(made()).items()} == dict.fromkeys(
        range(1, 10), HOLDS
    )


@pytest.mark.parametrize(
    ("number", "changed", "verdict"),
    [
        (1, {"grpo-hard": run(0.3, frac_all_wrong=[1.0] * 8)}, FAILS),  # far above 10%
        (1, {"formula-hard": run(0.08, frac_all_wrong=[1.0, 0.5, 0.5, 0.5])}, FAILS),  # 10 times 2% is 20%
        (1, {"formula-hard": run(0.22, frac_all_wrong=[1.0, 0.5, 0.5, 0.5])}, UNDECIDED),  # 22 of 100: 14 to 31
        (2, {"grpo": run(0.4)}, FAILS),  # above GT-SFT-GRPO
        (2, {"grpo": run(0.2)}, UNDECIDED),  # a tie
        (2, {"formula": run(0.5, easy=0.7)}, FAILS),  # the easy level lost 25 points
        (3, {"dpo-offline-expert": run(0.3, dpo_loss=[0.69, 0.2])}, UNDECIDED),
        (3, {"dpo-offline-expert": run(0.5, dpo_loss=[0.69, 0.2])}, FAILS),
        (4, {"dpo-online-expert": run(0.9)}, FAILS),
        (7, {"formula-0.5": run(0.9)}, FAILS),
        (7, {"formula-0.5": run(0.02)}, UNDECIDED),  # no better and no worse than none
        (8, {"dpo-offline-expert": run(0.3, dpo_loss=[0.69, 0.2])}, FAILS),  # 28 points more
        (8, {"dpo-offline-expert": run(0.11, dpo_loss=[0.69, 0.2])}, UNDECIDED),  # 9 points more, up to 15
        (9, {"grpo-hard": run(0.02, frac_all_wrong=[1.0, 1.0, 1.0, 0.9])}, FAILS),
        (9, {"formula-hard": run(0.5, frac_all_wrong=[1.0, 0.5, 0.5, 0.98])}, FAILS),
    ],
)
def test_each_can_fail_or_stay_open(number: int, changed: dict[str, RunResult], verdict: ClaimVerdict) -> None:
    assert outcomes(made(changed))[number].verdict == verdict


@pytest.mark.parametrize(
    ("number", "figures", "verdict"),
    [
        (5, {"ratio": 1.5}, FAILS),
        (5, {"ratio": 1.85}, UNDECIDED),
        (6, {"gain": -0.5}, FAILS),
        (6, {"gain": 0.05}, UNDECIDED),  # give or take 0.1
    ],
)
def test_the_diagnoses_can_fail(number: int, figures: dict[str, float], verdict: ClaimVerdict) -> None:
    assert outcomes(made(figures=figures))[number].verdict == verdict


def test_a_diagnosis_of_a_single_problem_leaves_its_claims_open() -> None:
    """It has no interval, which diagnosis.json says with nulls; one such seed of three is enough."""
    results = made()
    opened = {"value": 3.0, "low": None, "high": None}
    row: dict[str, Any] = {**results.diagnoses[0], "nll_ratio": opened}
    row["lift_gain"] = row["lift_gain"] | {"explanation": opened}
    results = Results(results.runs, {**results.diagnoses, 0: row}, 4)
    found = outcomes(results)
    assert (found[5].verdict, found[6].verdict) == (UNDECIDED, UNDECIDED)
    assert found[5].parts[0].figure == "2.40 (-inf to inf)"  # 3 and twice 2.1
    assert [part.verdict for part in found[6].parts] == [HOLDS, UNDECIDED]
    written = json.loads(json.dumps(list(map(part_json, found[5].parts)), allow_nan=False))
    assert written[0]["estimate"] == {"value": pytest.approx(2.4), "low": None, "high": None}


def test_seeds_that_disagree_leave_it_open() -> None:
    results = made()
    runs = dict(results.runs) | {"dpo-online": {0: run(0.6), 1: run(0.6), 2: run(0.0, easy=0.0)}}
    assert outcomes(Results(runs, results.diagnoses, 4))[4].verdict is UNDECIDED


def test_a_base_that_solves_it_is_no_case_for_the_first_claim() -> None:
    solved = {name: RunResult(evaluation(0.95, 0.3), own.after, own.metrics) for name, own in SOUND.items()}
    outcome = outcomes(made(solved))[1]
    assert outcome.verdict is ClaimVerdict.NOT_APPLICABLE
    assert outcome.inapplicable == "the base solves 30% of the hardest level"


def test_what_is_missing_is_not_measured_and_the_rest_of_a_claim_is() -> None:
    results = made()
    runs = {name: by_seed for name, by_seed in results.runs.items() if name != "formula-hard"}
    found = outcomes(Results(runs, {}, 4))
    assert [n for n, outcome in found.items() if outcome.verdict is ClaimVerdict.NOT_MEASURED] == [1, 5, 6, 9]
    assert [part.verdict for part in found[1].parts] == [HOLDS, ClaimVerdict.NOT_MEASURED]


def test_only_seeds_that_both_have_are_compared() -> None:
    runs = {"a": {0: run(0.5), 1: run(0.5)}, "b": {1: run(0.1), 2: run(0.9)}, "c": {3: run(0.1)}}
    results = Results(runs, {}, 4)
    part = better(results, "a", "b", "2")
    assert part.estimate is not None
    assert part.estimate.value == pytest.approx(0.4)
    assert part.n_seeds == 1
    assert better(results, "a", "c", "2").verdict is ClaimVerdict.NOT_MEASURED


def test_a_tie_of_nothing_is_undecided() -> None:
    """Both at 0 in every seed: the interval over seeds is a point, that over problems is not."""
    results = Results({name: dict.fromkeys(SEEDS, run(0.0)) for name in "ab"}, {}, 4)
    part = better(results, "a", "b", "2")
    assert part.verdict is UNDECIDED
    assert part.estimate is not None
    assert part.estimate.low < 0 < part.estimate.high


@pytest.mark.parametrize(
    ("low", "high", "above", "at_most"),
    [
        (0.1, 0.2, HOLDS, FAILS),
        (-0.2, -0.1, FAILS, HOLDS),
        (-0.1, 0.1, UNDECIDED, UNDECIDED),
        (-0.1, 0.0, UNDECIDED, HOLDS),
    ],
)
def test_a_verdict_is_where_the_interval_lies(
    low: float, high: float, above: ClaimVerdict, at_most: ClaimVerdict
) -> None:
    figure = Estimate((low + high) / 2, low, high)
    assert Part("", figure, 1, above=0.0).verdict is above
    assert Part("", figure, 1, at_most=0.0).verdict is at_most


def test_change_is_of_quarters() -> None:
    rows = [{"x": value} for value in (1.0, 3.0, 9.0, 9.0, 9.0, 9.0, 0.0, 2.0)]
    assert change([*rows, {"y": 7.0}], "x") == (2.0, 1.0)
    assert change([{"x": 4.0}], "x") == (4.0, 4.0)
    with pytest.raises(KeyError):
        change(rows, "z")


def test_seeds_and_problems_by_hand() -> None:
    # all problems alike in each seed: only seeds vary, but the problems' own doubt is added
    seeds = student([0.4, 0.5, 0.6])
    problems = over_seeds_and_problems([[0.5] * 50])
    both = over_seeds_and_problems([[0.4] * 50, [0.5] * 50, [0.6] * 50])
    assert both.value == pytest.approx(0.5)
    squares = (seeds.high - 0.5) ** 2 + (problems.high - 0.5) ** 2
    assert (both.high - 0.5) ** 2 == pytest.approx(squares)
    # never outside
    assert over_seeds_and_problems([[1.0, 0.0], [0.0, 0.0]]).low == 0.0
    assert over_seeds_and_problems([[1.0, 1.0], [-1.0, -1.0]], lowest=-1.0) == Estimate(0.0, -1.0, 1.0)


def test_the_interval_covers_what_it_says() -> None:
    """Crossed seeds and problems, drawn 100 times: the truth is inside in 95%, and not by being all of 0 to 1."""
    import random

    rng = random.Random(1)
    inside, widths = 0, []
    for _ in range(100):
        problems = [rng.gauss(0.0, 0.15) for _ in range(40)]
        draws = []
        for _seed in range(5):
            seed = rng.gauss(0.0, 0.1)
            draws.append([0.5 + seed + problem + rng.gauss(0.0, 0.1) for problem in problems])
        got = over_seeds_and_problems(draws)
        inside += got.low <= 0.5 <= got.high
        widths.append(got.high - got.low)
    assert inside / 100 >= 0.94
    assert sum(widths) / 100 < 0.4


def test_what_one_seed_leaves_open() -> None:
    """A shift over the steps of one run has no interval: claims 8 and 9 hang on it."""
    found = outcomes(made({}, seeds=(0,)))
    assert (found[8].verdict, found[9].verdict) == (UNDECIDED, UNDECIDED)


def test_what_is_printed() -> None:
    results = made({}, seeds=(0,))
    found = outcomes(results)
    assert [part.figure for part in found[5].parts] == ["2.10 (2.00 to 2.20)"]
    assert found[2].parts[0].figure.startswith("18.0 (")
    figures = figures_by_level(results, 4)
    assert list(figures) == [BASE, *SOUND]
    assert [round(figure.value, 3) for figure in figures[BASE]] == [0.95, 0.02, 0.485]


def test_the_sum_of_a_metric_is_the_cost() -> None:
    rows: Callable[[float], list[dict[str, float]]] = lambda n: [{"num_tokens": n}, {"num_tokens": n}]
    results = Results({"a": {0: RunResult(START, START, rows(5.0)), 1: RunResult(START, START, rows(7.0))}}, {}, 4)
    assert results.total("a", "num_tokens") == Estimate(12.0, 10.0, 14.0)  # and its seeds' ends, never below 0
