"""Figures of hand-made outcomes."""

import json

import pytest

from expo_lite.records import Problem
from expo_lite.results.figures import Evaluation, GradedProblem, Sample, evaluation_of
from expo_lite.results.statistics import over_problems
from expo_lite.settings.schema import from_mapping


def outcome(
    name: str, greedy: str, samples: str, *, level: int | None = 1, subject: str | None = None
) -> GradedProblem:
    """A problem whose answer is 7; one character a completion: its answer, '-' for none, '.' for truncated."""

    def sample(answer: str) -> Sample:
        reasons = {"7": "equal", "-": "no_answer", ".": "truncated"}
        given = None if answer in "-." else answer
        return Sample(answer == "7", reasons.get(answer, "different"), given, answer == ".", 10)

    problem = Problem(name, f"What is {name}?", "7", level, subject)
    return GradedProblem(problem, sample(greedy), tuple(map(sample, samples)))


def test_figures_by_hand() -> None:
    evaluation = evaluation_of(
        [
            outcome("a", "7", "7789", level=1, subject="x"),
            outcome("b", "8", "88-.", level=1, subject="y"),
            outcome("c", "7", "7777", level=2, subject="x"),
        ],
        0.7,
    )
    assert [result.level for result in evaluation.levels] == ["1", "2", "all"]
    assert [result.level for result in evaluation.subjects] == ["x", "y"]
    one, two, both = evaluation.levels
    assert (one.n_problems, one.n_samples) == (2, 4)
    assert one.greedy == over_problems([1.0, 0.0])
    assert one.avg.value == one.pass_at[1].value == pytest.approx((0.5 + 0) / 2)
    assert one.pass_at[4] == over_problems([1.0, 0.0])
    assert one.maj_at[4].value == 0.5
    assert (one.frac_all_wrong, one.truncated_rate, one.no_answer_rate) == (0.5, 1 / 8, 2 / 8)
    assert one.reasons == {"different": 4, "equal": 2, "no_answer": 1, "truncated": 1}
    assert (one.mean_tokens, one.all_wrong) == (10, over_problems([0.0, 1.0]))
    assert two.greedy == over_problems([1.0])
    assert both.avg == over_problems([0.5, 0.0, 1.0])
    assert evaluation.subjects[0].avg.value == 0.75


def test_valid_samples_are_counted_where_the_task_can_tell() -> None:
    problem = Problem("a", "?", "7")
    right, copied, wrong = (
        Sample(ok, "", "7", False, 1, valid) for ok, valid in ((True, True), (True, False), (False, None))
    )
    known = GradedProblem(problem, right, (right, copied, wrong, wrong))
    unknown = GradedProblem(problem, right, (Sample(True, "", "7", False, 1), right, wrong, wrong))
    never = GradedProblem(problem, wrong, (wrong,) * 4)
    assert [each.n_valid for each in (known, unknown, never)] == [1, None, 0]
    assert evaluation_of([known, never], 0.7).levels[0].valid_rate == 1 / 8
    assert evaluation_of([known, never], 0.7).scalars()["valid_rate"] == 1 / 8
    for members in ([known, unknown], [never]):
        assert evaluation_of(members, 0.7).levels[0].valid_rate is None
        assert "valid_rate" not in evaluation_of(members, 0.7).scalars()


def test_spellings_of_an_answer_vote_together() -> None:
    problem = Problem("a", "?", "1/2")
    answers = ["\\frac{1}{2}", "\\dfrac{1}{2} ", "$\\frac12$", "3", "3"]
    samples = tuple(Sample("2" in a, "equal", a, False, 1) for a in answers)
    assert GradedProblem(problem, samples[0], samples[:2] + samples[3:]).majority_at(4) == 0.5
    assert len(set(GradedProblem(problem, samples[0], samples[:2]).votes)) == 1


def test_json_round_trip() -> None:
    evaluation = evaluation_of([outcome("a", "7", "78"), outcome("b", "8", "89", level=2, subject="x")], 0.7)
    assert from_mapping(Evaluation, json.loads(json.dumps(evaluation.to_json()))) == evaluation
