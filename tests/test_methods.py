"""From samples to weighted rows, by hand."""

import dataclasses

import pytest

from expo_lite.config import ExplanationConfig, LossConfig, TrainConfig, resolve
from expo_lite.methods import METHODS, Chain, Experience, chain_rows, grpo_rows
from expo_lite.records import Completion, FinishReason, Group, Problem, Verdict

CONFIG = resolve(TrainConfig(model="tiny", group_size=2))


def group(rewards: list[int], lengths: list[int]) -> Group:
    problem = Problem("p", "q", "1")
    completions = [Completion((1, 2), (3,) * n, (0.0,) * n, "", FinishReason.STOP) for n in lengths]
    return Group(problem, tuple(completions), tuple(Verdict(bool(r), "", "") for r in rewards))


MIXED, WRONG, RIGHT = group([1, 0], [2, 4]), group([0, 0], [2, 2]), group([1, 1], [1, 1])


def with_loss(**values: object) -> TrainConfig:
    return dataclasses.replace(CONFIG, loss=LossConfig(**values))  # type: ignore[arg-type]


def test_grpo_rows_by_hand() -> None:
    rows = grpo_rows(Experience((MIXED, WRONG), (), 0.0), CONFIG)
    # rewards 1, 0: minus 1/2, over sqrt(1/2) + 1e-4
    assert [row.advantage for row in rows] == pytest.approx([0.70701, -0.70701, 0, 0], abs=1e-4)
    # four completions of 2, 4, 2 and 2 tokens; dead groups count in the average
    assert [row.weight for row in rows] == pytest.approx([1 / 8, 1 / 16, 1 / 8, 1 / 8])
    assert [row.has_gradient for row in rows] == [True, True, False, False]


@pytest.mark.parametrize("dead", [WRONG, RIGHT])
def test_kl_on_dead_groups_is_a_choice(dead: Group) -> None:
    paying = grpo_rows(Experience((MIXED, dead), (), 0.0), with_loss(kl_coef=0.1))
    assert all(row.has_gradient for row in paying)
    spared = grpo_rows(Experience((MIXED, dead), (), 0.0), with_loss(kl_coef=0.1, kl_on_dead_groups=False))
    assert [row.has_gradient for row in spared] == [True, True, False, False]
    assert spared[0] == paying[0]


def test_an_all_right_group_is_not_an_all_wrong_one() -> None:
    assert (MIXED.kind.value, WRONG.kind.value, RIGHT.kind.value) == ("mixed", "all_wrong", "all_right")


def test_chain_rows_by_hand() -> None:
    chain = Chain((1, 2), (3, 4, 5, 6))
    # 0.04 over 2 problems, over 4 tokens
    assert chain_rows([chain], 2, CONFIG, 0.0)[0].sft_weight == pytest.approx(0.005)
    summed = dataclasses.replace(CONFIG, explanation=ExplanationConfig(exp_sft_normalisation="sequence"))
    assert chain_rows([chain], 2, summed, 0.0)[0].sft_weight == pytest.approx(0.02)
    falling = dataclasses.replace(CONFIG, explanation=ExplanationConfig(exp_sft_schedule="linear"))
    assert chain_rows([chain], 2, falling, 0.75)[0].sft_weight == pytest.approx(0.00125)


def test_exp_grpo_without_chains_is_grpo() -> None:
    experience = Experience((MIXED, WRONG), (), 0.5)
    assert METHODS["exp-grpo"].rows(experience, CONFIG) == METHODS["grpo"].rows(experience, CONFIG)


def test_the_chain_stands_outside_the_group() -> None:
    chain = Chain((1, 2), (3, 4))
    with_chain = METHODS["exp-grpo"].rows(Experience((MIXED, WRONG), (chain,), 0.0), CONFIG)
    without = METHODS["grpo"].rows(Experience((MIXED, WRONG), (), 0.0), CONFIG)
    assert with_chain[:-1] == without
    assert with_chain[-1].advantage == 0.0
    assert with_chain[-1].weight == 0.0
