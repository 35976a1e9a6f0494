"""Yes or no from figures: every rule by itself, their order, and the closing line."""

from typing import Any

import pytest

from expo_lite.measure.verdict import FEW, LevelDiagnosis, LevelVerdict, closing_line, judge_level
from expo_lite.results.statistics import Estimate

GOOD: dict[str, Any] = {
    "n_problems": 32,
    "reward": 0.0,
    "accepted": 0.9,
    "truncated": 0.0,
    "misled": 0.0,
    "valid": 0.95,
    "shown": None,
    "gain": 25.0,
    "nll_ratio": Estimate(3.5, 3.0, 4.0),
}


def level(**changes: Any) -> LevelDiagnosis:
    facts = GOOD | changes

    def point(name: str) -> Estimate | None:
        return None if facts[name] is None else Estimate(facts[name], facts[name], facts[name])

    nothing = Estimate(0.0, 0.0, 0.0)
    return LevelDiagnosis(
        "5",
        facts["n_problems"],
        reward=point("reward") or nothing,
        all_wrong=nothing,
        truncated=nothing,
        accepted=point("accepted") or nothing,
        nll={},
        lift={},
        nll_ratio=facts["nll_ratio"],
        lift_gain={"explanation": point("gain")},
        right={"wrong-answer": point("misled"), "explanation": point("shown")},
        valid={"explanation": point("valid")},
        reliance={},
        explanations_truncated=point("truncated"),
    )


@pytest.mark.parametrize(
    ("change", "outcome", "says"),
    [
        ({}, "yes", "90% accepted"),
        ({"n_problems": FEW - 1}, "undecided", "too few"),
        ({"reward": 0.9}, "solved", "90% of its own"),
        ({"reward": 0.89}, "yes", "90% accepted"),
        ({"accepted": 0.05}, "no", "only 5% of explanations are accepted"),
        ({"accepted": 0.05, "truncated": 0.6}, "no", "60% of explanations are cut off"),
        ({"misled": 0.45}, "no", "the prompt helps, not the answer"),  # half of 0.9
        ({"misled": 0.44}, "yes", ""),
        ({"reward": 0.6, "shown": 1.0, "misled": 0.5}, "yes", ""),  # another answer harms: 60% are right without one
        ({"reward": 0.6, "shown": 1.0, "misled": 0.8}, "no", "the prompt helps"),  # half of the 40 points
        ({"reward": 0.5, "shown": 0.5, "misled": 0.5, "accepted": 0.5}, "no", "the prompt helps"),  # it adds nothing
        ({"n_problems": FEW, "accepted": 0.375, "valid": 0.0}, "undecided", "3 accepted of 8 explanations"),
        ({"n_problems": FEW, "accepted": 0.5, "valid": 0.0}, "no", "only 0% of those"),
        ({"valid": 0.3}, "no", "only 30% of those accepted and checked have right steps"),
        ({"valid": 0.6}, "undecided", "only 60% of those accepted and checked have right steps"),
        ({"gain": 0.0}, "no", "no positive signal"),
        ({"nll_ratio": Estimate(0.9, 0.8, 0.99)}, "no", "expert chains are more probable"),
        ({"nll_ratio": Estimate(0.9, 0.8, 1.0)}, "yes", ""),
        ({"nll_ratio": None, "misled": None, "valid": None}, "yes", ""),
        ({"accepted": 0.05, "valid": 0.0, "misled": 0.5}, "no", "only 5% of explanations"),  # the first rule
    ],
)
def test_the_rules(change: dict[str, object], outcome: str, says: str) -> None:
    judged = judge_level(level(**change))
    assert judged.outcome == outcome
    assert says in judged.why
    assert bool(judged.attempt) is (outcome != "yes")


YES, NO = LevelVerdict("yes", "fine"), LevelVerdict("no", "copied", "another model")
SOLVED = LevelVerdict("solved", "all right", "a harder level")


@pytest.mark.parametrize(
    ("verdicts", "head"),
    [
        ({"1": SOLVED, "5": YES}, "yes; explanations are good positives"),
        ({"4": NO, "5": NO}, "no; explanations are not good positives"),
        ({"4": YES, "5": NO}, "yes on level 4, no on level 5."),
        ({"1": SOLVED}, "nothing to learn here"),
    ],
)
def test_the_closing_line(verdicts: dict[str, LevelVerdict], head: str) -> None:
    assert closing_line(verdicts).startswith(f"Verdict: {head}")


def test_the_closing_line_has_the_hardest_level_s_remedy() -> None:
    assert closing_line({"4": YES, "5": NO}).endswith("copied. Try another model.")
