"""From samples to weighted rows, by hand."""

import dataclasses
from typing import Any, get_args

import pytest

from expo_lite.policy.batching import Side
from expo_lite.records import Completion, FinishReason, Group, Pair, Problem, Verdict
from expo_lite.settings.groups import DpoConfig, ExpoConfig, LossConfig
from expo_lite.settings.methods import METHODS, Method
from expo_lite.settings.train import RunConfig, TrainConfig, resolve
from expo_lite.step.methods import METHOD_ROWS, Chain, Experience, chain_rows, dpo_rows, grpo_rows

CONFIG = resolve(TrainConfig(model="tiny", group_size=2))
BY_TOKEN = dataclasses.replace(CONFIG, explanation=ExpoConfig(exp_sft_normalisation="token"))


def group(rewards: list[int], lengths: list[int]) -> Group:
    problem = Problem("p", "q", "1")
    completions = [Completion((1, 2), (3,) * n, (0.0,) * n, "", FinishReason.STOP) for n in lengths]
    return Group(problem, tuple(completions), tuple(Verdict(bool(r), "", "") for r in rewards))


MIXED, WRONG, RIGHT = group([1, 0], [2, 4]), group([0, 0], [2, 2]), group([1, 1], [1, 1])


def with_loss(**values: object) -> RunConfig:
    return dataclasses.replace(CONFIG, loss=LossConfig(**values))  # type: ignore[arg-type]


def test_grpo_rows_by_hand() -> None:
    rows = grpo_rows(Experience((MIXED, WRONG), (), 0.0), CONFIG)
    # rewards 1, 0: minus 1/2, over sqrt(1/2) + 1e-4
    assert [row.advantage for row in rows] == pytest.approx([0.70701, -0.70701, 0, 0], abs=1e-4)
    # four completions of 2, 4, 2 and 2 tokens; dead groups count in the average
    assert [row.weight for row in rows] == pytest.approx([1 / 8, 1 / 16, 1 / 8, 1 / 8])
    assert [row.has_gradient for row in rows] == [True, True, False, False]


@pytest.mark.parametrize("dead", [WRONG, RIGHT])
def test_dead_groups_pay_the_kl(dead: Group) -> None:
    assert all(row.has_gradient for row in grpo_rows(Experience((MIXED, dead), (), 0.0), with_loss(kl_coef=0.1)))


def test_chain_rows_by_hand() -> None:
    chain = Chain((1, 2), (3, 4, 5, 6))
    # 0.04 over 2 problems, for each token; or over 4 tokens
    assert chain_rows([chain], 2, CONFIG, 0.0)[0].sft_weight == pytest.approx(0.02)
    assert chain_rows([chain], 2, BY_TOKEN, 0.0)[0].sft_weight == pytest.approx(0.005)
    falling = dataclasses.replace(CONFIG, explanation=ExpoConfig(exp_sft_schedule="linear"))
    assert chain_rows([chain], 2, falling, 0.75)[0].sft_weight == pytest.approx(0.005)


def test_the_chain_stands_outside_the_group() -> None:
    chain = Chain((1, 2), (3, 4))
    with_chain = METHOD_ROWS["exp-grpo"](Experience((MIXED, WRONG), (chain,), 0.0), CONFIG)
    without = METHOD_ROWS["grpo"](Experience((MIXED, WRONG), (), 0.0), CONFIG)
    assert with_chain[:-1] == without
    assert with_chain[-1].advantage == 0.0
    assert with_chain[-1].weight == 0.0


def test_every_method_of_the_settings_is_here() -> None:
    assert tuple(METHODS) == tuple(METHOD_ROWS) == get_args(Method)


def test_sft_imitates_the_chains_alone() -> None:
    rows = METHOD_ROWS["sft"](Experience((MIXED, WRONG), (Chain((1, 2), (3, 4, 5, 6)),), 0.0), BY_TOKEN)
    # one of two problems, four tokens; neither the groups nor exp_sft_coef count
    assert [row.completion_ids for row in rows] == [(3, 4, 5, 6)]
    assert [row.sft_weight for row in rows] == pytest.approx([1 / 8])


def test_star_takes_right_answers_and_explanations_of_failures_alike() -> None:
    chain = Chain((1, 2), (7, 8))
    rows = METHOD_ROWS["star"](Experience((MIXED, WRONG, RIGHT), (chain,), 0.0), BY_TOKEN)
    # three problems; the last one's two right answers, of a token each, share its weight; nothing wrong is imitated
    assert [row.completion_ids for row in rows] == [(7, 8), (3, 3), (3,), (3,)]
    assert [row.sft_weight for row in rows] == pytest.approx([1 / 3 / 2] * 4)
    assert METHOD_ROWS["star"](Experience((WRONG,), (), 0.0), CONFIG) == []


PAIR = Pair(Problem("p", "q", "1"), (1, 2), (3, 4), (5, 6, 7), -4.0, -3.0)


def test_dpo_rows_by_hand() -> None:
    config = dataclasses.replace(CONFIG, dpo=DpoConfig(dpo_beta=0.5))
    rows = dpo_rows(Experience((), (), 0.0, (PAIR, PAIR)), config)
    assert [row.side for row in rows[:2]] == [Side(0, True, -4.0, 0.5), Side(0, False, -3.0, 0.5)]
    assert [row.side.pair for row in rows if row.side] == [0, 0, 1, 1]
    assert [row.completion_ids for row in rows] == [(3, 4), (5, 6, 7)] * 2
    assert all(row.has_gradient and row.prompt_ids == (1, 2) for row in rows)
    assert dpo_rows(Experience((WRONG,), (), 0.0), config) == []


def test_where_chains_come_from() -> None:
    def source(method: Any, coef: float = 0.04, dpo: DpoConfig = CONFIG.dpo) -> str:
        explanation = ExpoConfig(exp_sft_coef=coef)
        return dataclasses.replace(CONFIG, method=method, explanation=explanation, dpo=dpo).chain_source

    explained = "explanation"
    assert [source(method) for method in METHODS] == ["none", explained, "expert", explained, explained, "expert"]
    assert source("exp-dpo", dpo=DpoConfig(chosen="expert")) == "expert"
    # a coefficient of 0 spares the sampling where it would scale the chains, and only there
    assert [source(method, 0.0) for method in METHODS] == ["none", "none", "none", explained, explained, "expert"]
