"""Sampled and graded groups, which problems a step draws, and which random numbers each purpose has."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from expo_lite.memory.limits import Limits
from expo_lite.records import Completion, FinishReason, Group, Problem, SampleRequest, SamplingParams, Verdict
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.train import Draw
from expo_lite.step.explain import roll_out
from expo_lite.step.rollout import draw, remember, stream_seed

PROBLEMS = [Problem(f"p{i}", f"Question {i}?", str(i)) for i in range(5)]
PARAMS = SamplingParams(1.0, 10)
TWO_EACH = ExpoConfig(explanations_per_problem=2)


class Tokenizer:
    def apply_chat_template(self, conversation: list[dict[str, str]], **_kwargs: Any) -> list[int]:
        return [ord(character) for character in conversation[-1]["content"]]


@dataclass
class Echo:
    """A policy whose completions say which prompt they answer, and which of its completions they are."""

    tokenizer: Any = field(default_factory=Tokenizer)
    calls: list[tuple[list[SampleRequest], int]] = field(default_factory=list)

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        assert replace(params, temperature=1.0) == PARAMS
        self.calls.append((list(requests), seed))
        return [
            tuple(
                Completion(
                    request.prompt_ids, (1,), (0.0,), f"{''.join(map(chr, request.prompt_ids))[9]} {i}",
                    FinishReason.LENGTH if i == 2 else FinishReason.STOP,
                )
                for i in range(request.n_completions)
            )
            for request in requests
        ]  # fmt: skip


class Task:
    """Right is a completion of the problem's own prompt that was not cut off."""

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        right = completion.split()[0] == problem.answer and not truncated
        return Verdict(right, "truncated" if truncated else "equal", "text", completion)


def roll(policy: Echo, **kwargs: Any) -> Any:
    return roll_out(policy, Task(), params=PARAMS, limits=Limits(1024, PARAMS.rows), seed=7, **kwargs)  # type: ignore[arg-type]


def test_explanations_beside_groups_have_random_numbers_of_their_own() -> None:
    policy, warm = Echo(), ExpoConfig(explanation_temperature=0.5)
    roll(policy, problems=PROBLEMS, to_explain=PROBLEMS, group_size=3, explaining=warm)
    roll(policy, to_explain=PROBLEMS, explaining=warm)
    (_, beside), (_, own), (_, alone) = policy.calls
    assert (beside, alone) == (7, 7) and own != 7


def test_groups_and_attempts_are_sampled_together_and_keep_their_problems() -> None:
    policy = Echo()
    rolled = roll(policy, problems=PROBLEMS, to_explain=PROBLEMS[3:1:-1], group_size=3, explaining=TWO_EACH)
    ((requests, seed),) = policy.calls  # one call: both kinds share batches
    assert seed == 7
    assert [request.n_completions for request in requests] == [3] * 5 + [2] * 2
    assert [group.problem for group in rolled.groups] == PROBLEMS
    assert [group.problem for group in rolled.attempts] == [PROBLEMS[3], PROBLEMS[2]]
    for group in (*rolled.groups, *rolled.attempts):
        assert [c.text for c in group.completions] == [
            f"{group.problem.answer} {i}" for i in range(len(group.completions))
        ]
        assert [v.answer for v in group.verdicts] == [c.text for c in group.completions]
        assert [v.correct for v in group.verdicts] == [True, True, False][: len(group.completions)]
    shown = "The correct answer is"
    assert all(shown not in "".join(map(chr, c.prompt_ids)) for group in rolled.groups for c in group.completions)
    assert all(shown in "".join(map(chr, c.prompt_ids)) for group in rolled.attempts for c in group.completions)


def test_an_epoch_is_every_problem_once() -> None:
    drawn = [draw(PROBLEMS, 2, step=step, seed=3) for step in range(15)]
    flat = [problem for step in drawn for problem in step]
    epochs = [flat[i : i + 5] for i in range(0, 30, 5)]
    assert all(Counter(epoch) == Counter(PROBLEMS) for epoch in epochs)
    assert len({tuple(problem.problem_id for problem in epoch) for epoch in epochs}) > 1  # in another order each time


def test_a_draw_depends_on_step_and_seed_alone() -> None:
    assert draw(PROBLEMS, 3, step=4, seed=3) == draw(PROBLEMS, 3, step=4, seed=3)
    others = [draw(PROBLEMS, 3, step=4, seed=seed) for seed in range(20)]
    assert len({tuple(p.problem_id for p in drawn) for drawn in others}) > 5


def test_a_step_may_ask_for_more_than_there_are() -> None:
    drawn = draw(PROBLEMS, 12, step=2, seed=0)
    assert len(drawn) == 12
    assert max(Counter(drawn).values()) <= 4


@pytest.mark.parametrize(("by", "often"), [("hard", "p1"), ("even", "p2")])
def test_a_draw_by_success_rate(by: Draw, often: str) -> None:
    """Chances 0.05, 1, 0.5, 1 - 0.9 and, without a rate, 1; or 0.05, 0.05, 1, 0.36 and 1."""
    rates = {"p0": 1.0, "p1": 0.0, "p2": 0.5, "p3": 0.9}
    counts = Counter(
        p.problem_id for step in range(400) for p in draw(PROBLEMS, 1, step=step, seed=1, by=by, rates=rates)
    )
    chances = {"hard": [0.05, 1, 0.5, 0.1, 1], "even": [0.05, 0.05, 1, 0.36, 1]}[by]
    for i, chance in enumerate(chances):
        assert abs(counts[f"p{i}"] / 400 - chance / sum(chances)) < 0.08
    assert counts["p0"] > 0
    assert counts[often] > 100
    drawn = [p.problem_id for p in draw(PROBLEMS, 12, step=3, seed=1, by=by, rates=rates)]
    assert max(Counter(drawn).values()) <= 3  # without replacement
    assert drawn == [p.problem_id for p in draw(PROBLEMS, 12, step=3, seed=1, by=by, rates=dict(rates))]


def test_success_rates_are_kept_by_hand() -> None:
    def group(*correct: bool) -> Group:
        return Group(PROBLEMS[0], (), tuple(Verdict(each, "", "") for each in correct))

    rates: dict[str, float] = {}
    for correct, rate in (((False, True), 0.5), ((True, True), 0.75), ((False, False), 0.375)):
        remember(rates, [group(*correct)])
        assert rates == {"p0": rate}


def test_each_purpose_has_its_own_random_numbers() -> None:
    purposes: list[tuple[str | int, ...]] = [
        ("rollout", 1),
        ("rollout", 11),
        ("explanation", 1),
        ("epoch", 1),
        ("rollout", "1"),
    ]
    seeds = {stream_seed(seed, *purpose) for seed in range(50) for purpose in purposes}
    assert len(seeds) == 50 * len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, "rollout", 2) == 60_649_150_145_847_825  # for ever: runs are repeated by it
