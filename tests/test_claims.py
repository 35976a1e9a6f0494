"""The claims' arithmetic, by hand, on made-up summaries: each claim holding, failing, and not measured."""

from dataclasses import replace
from typing import Any

import pytest

from expo_lite.measure.figures import Evaluation, LevelResult
from expo_lite.measure.statistics import Estimate, over_seeds
from expo_lite.replication.claims import CLAIMS, Judgement, Results, RunResult, change, judge_claims
from expo_lite.replication.report import claim_table, figures, level_table

BASE = {"1": 0.95, "2": 0.02}
"""pass@4 by level; "all" is their mean."""


def evaluation(levels: dict[str, float]) -> Evaluation:
    def row(level: str, value: float) -> LevelResult:
        e = Estimate(value, value, value)
        return LevelResult(level, 10, 8, e, e, {1: e, 4: e}, {1: e, 4: e}, 0.0, 0.0, 0.0, 9.0, {})

    rows = [row(level, value) for level, value in levels.items()]
    return Evaluation((*rows, row("all", sum(levels.values()) / len(levels))), 0.7)


def run(hard: float, easy: float = 0.95, **metrics: list[float]) -> RunResult:
    steps = max((len(values) for values in metrics.values()), default=0)
    rows = [{name: values[i] for name, values in metrics.items()} for i in range(steps)]
    return RunResult(evaluation({"1": easy, "2": hard}), rows)


def estimate(value: float | None) -> dict[str, float] | None:
    return None if value is None else {"value": value, "low": value, "high": value}


def diagnosis(ratio: float = 2.1, lift: float = 3.0, own: float = 1.0) -> dict[str, Any]:
    return {
        "nll": {"own": estimate(0.3), "explanation": estimate(0.5), "expert": estimate(0.5 * ratio)},
        "lift": {"own": estimate(own), "explanation": estimate(lift), "expert": estimate(0.0)},
        "nll_ratio": estimate(ratio),
    }


SOUND = {
    "grpo-hard": run(0.03, frac_all_wrong=[1.0] * 8),
    "exp-grpo-hard": run(0.4, frac_all_wrong=[1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.5, 0.3]),
    "grpo-all": run(0.03),
    "gt-sft-grpo-all": run(0.1),
    "exp-grpo-all": run(0.4),
    "exp-grpo-all-0.5": run(0.01, easy=0.9),
    "dpo-offline": run(0.2),
    "dpo-offline-expert": run(0.02, dpo_loss=[0.69, 0.6, 0.4, 0.2]),
    "dpo-online": run(0.3),
    "dpo-online-expert": run(0.05),
}


def results(
    changed: dict[str, RunResult] | None = None,
    seeds: tuple[int, ...] = (0,),
    figures: dict[str, float] | None = None,
) -> dict[int, Judgement]:
    """Judgements by claim, with some runs of the last seed changed."""
    runs = {name: dict.fromkeys(seeds, sound) for name, sound in SOUND.items()}
    for name, other in (changed or {}).items():
        runs[name] = runs[name] | {seeds[-1]: other}
    diagnoses = {seed: diagnosis(**(figures or {} if seed == seeds[-1] else {})) for seed in seeds}
    outcomes = judge_claims(Results(evaluation(BASE), runs, diagnoses, seeds))
    return {outcome.claim.number: outcome for outcome in outcomes}


def test_all_hold() -> None:
    outcomes = results()
    assert [outcome.holds for outcome in outcomes.values()] == [True] * 9
    assert [outcome.verdict for outcome in outcomes.values()] == ["holds"] * 9


@pytest.mark.parametrize(
    ("number", "changed"),
    [
        (1, {"grpo-hard": run(0.06, frac_all_wrong=[1.0] * 8)}),  # 4 points above the base
        (1, {"exp-grpo-hard": run(0.19, frac_all_wrong=[1.0, 0.5, 0.5, 0.5])}),  # less than 10 times 2%
        (2, {"grpo-all": run(0.11)}),  # above GT-SFT-GRPO
        (2, {"gt-sft-grpo-all": run(0.41)}),
        (2, {"exp-grpo-all": run(0.4, easy=0.91)}),  # the easy level lost 4 points
        (3, {"dpo-offline-expert": run(0.2, dpo_loss=[0.69, 0.2])}),  # no better is not better
        (4, {"dpo-online-expert": run(0.31)}),
        (4, {"dpo-offline": run(0.31)}),
        (7, {"exp-grpo-all-0.5": run(0.41)}),
        (7, {"exp-grpo-all-0.5": run(0.04)}),  # worse than moderate, but better than none
        (8, {"dpo-offline-expert": run(0.09, dpo_loss=[0.69, 0.2])}),  # 3.5 points more, of all levels
        (8, {"dpo-offline-expert": run(0.02, dpo_loss=[0.69, 0.7])}),
        (9, {"grpo-hard": run(0.03, frac_all_wrong=[1.0, 1.0, 1.0, 0.9])}),
        (9, {"exp-grpo-hard": run(0.4, frac_all_wrong=[1.0, 0.5, 0.5, 0.98])}),
    ],
)
def test_each_can_fail(number: int, changed: dict[str, RunResult]) -> None:
    outcome = results(changed)[number]
    assert outcome.holds is False
    assert outcome.verdict == "fails"


@pytest.mark.parametrize(("number", "figures"), [(5, {"ratio": 1.7}), (6, {"lift": 1.0})])
def test_the_diagnoses_can_fail(number: int, figures: dict[str, float]) -> None:
    outcomes = results(figures=figures)
    assert [n for n, outcome in outcomes.items() if not outcome.holds] == [number]


def test_one_seed_of_three_is_enough_to_fail() -> None:
    outcome = results({"dpo-online": run(0.01)}, seeds=(0, 1, 2))[4]
    assert (outcome.holds, outcome.verdict) == (False, "fails (2 of 3 seeds)")
    # "all" is the mean of both levels
    assert outcome.figures["explanations"] == pytest.approx([0.625, 0.625, 0.48])
    assert results(seeds=(0, 1, 2))[4].verdict == "holds"


def test_what_is_missing_is_not_measured() -> None:
    runs = {name: {0: sound} for name, sound in SOUND.items() if name != "exp-grpo-hard"}
    nothing = diagnosis() | {"nll_ratio": None}
    outcomes = judge_claims(Results(evaluation(BASE), runs, {0: nothing}, (0,)))
    assert [outcome.claim.number for outcome in outcomes if outcome.holds is None] == [1, 5, 9]
    assert {outcome.verdict for outcome in outcomes if outcome.holds is None} == {"not measured"}


def test_a_base_of_zero_still_asks_for_ten_points() -> None:
    runs = {name: {0: sound} for name, sound in SOUND.items()}
    runs["exp-grpo-hard"] = {0: run(0.09, frac_all_wrong=[1.0, 0.5])}
    runs["grpo-hard"] = {0: run(0.0, frac_all_wrong=[1.0, 1.0])}
    (first, *_) = judge_claims(Results(evaluation({"1": 0.95, "2": 0.0}), runs, {0: diagnosis()}, (0,)))
    assert first.holds is False


def test_a_task_without_levels_is_all_one_level() -> None:
    def only(value: float) -> Evaluation:
        return replace(evaluation({"1": value}), levels=evaluation({"1": value}).levels[-1:])

    runs = {name: {0: replace(SOUND[name], after=only(value))} for name, value in (("grpo-all", 0.1), ("gt-sft-grpo-all", 0.2), ("exp-grpo-all", 0.3))}  # fmt: skip
    outcomes = judge_claims(Results(only(0.1), runs, {0: diagnosis()}, (0,)))
    assert outcomes[1].holds is True
    assert outcomes[1].figures["ExP-GRPO's worst change of a level"] == pytest.approx([0.2])


def test_change_is_of_quarters() -> None:
    rows = [{"x": value} for value in (1.0, 3.0, 9.0, 9.0, 9.0, 9.0, 0.0, 2.0)]
    assert change([*rows, {"y": 7.0}], "x") == (2.0, 1.0)
    assert change([{"x": 4.0}], "x") == (4.0, 4.0)
    with pytest.raises(KeyError):
        change(rows, "z")


def test_over_seeds_by_hand() -> None:
    # 1, 2, 3: deviation 1, over sqrt(3), times t of 2 degrees of freedom
    got = over_seeds([1.0, 2.0, 3.0])
    assert (got.value, got.high - got.value) == pytest.approx((2.0, 4.3027 / 3**0.5))
    assert over_seeds([0.4]) == Estimate(0.4, 0.4, 0.4)


def test_against_scipy() -> None:
    from scipy import stats

    for n in (2, 3, 5, 10):
        values = [float(i * i) for i in range(n)]
        low, high = stats.t.interval(0.95, n - 1, sum(values) / n, stats.sem(values))
        got = over_seeds(values)
        assert (got.low, got.high) == pytest.approx((low, high), rel=1e-4)


def test_what_is_printed() -> None:
    outcomes = results(seeds=(0, 1, 2))
    assert figures(outcomes[1]) == ["base: 2.0", "GRPO: 3.0", "ExP-GRPO: 40.0"]
    assert figures(outcomes[5]) == ["expert: 1.05", "explanation: 0.50", "ratio: 2.10"]
    assert figures(outcomes[8])[:2] == ["loss first: 0.69", "loss last: 0.20"]
    spread = results({"grpo-hard": run(0.0, frac_all_wrong=[1.0])}, seeds=(0, 1))[1]
    assert figures(spread)[1] == "GRPO: 1.5 (-17.6 to 20.6)"
    assert claim_table(list(outcomes.values())).row_count == len(CLAIMS) == 9
    runs = {"exp-grpo-hard": {0: SOUND["exp-grpo-hard"]}, "dpo-online": {}}
    assert level_table(Results(evaluation(BASE), runs, {}, (0,))) == [
        "| run | 1 | 2 | all | all-wrong groups, first quarter | last quarter |",
        "| --- | --- | --- | --- | --- | --- |",
        "| base | 95.0 | 2.0 | 48.5 | | |",
        "| exp-grpo-hard | 95.0 | 40.0 | 67.5 | 100.0 | 40.0 |",
    ]
