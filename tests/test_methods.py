"""From samples to weighted rows, by hand."""

import dataclasses
import math
from typing import Any, get_args

import pytest
import torch

from expo_lite.policy.batching import Side, SoftLabels
from expo_lite.records import Completion, Explanation, FinishReason, Group, Pair, Problem, Verdict
from expo_lite.settings.groups import DpoConfig, ExpoConfig, LossConfig, Teacher
from expo_lite.settings.methods import METHODS, Method
from expo_lite.settings.train import RunConfig, TrainConfig, resolve
from expo_lite.step.methods import (
    METHOD_ROWS,
    Chain,
    Experience,
    chain_rows,
    dpo_rows,
    experience_metrics,
    grpo_rows,
)


def configured(method: Method = "exp-grpo", **explanation: Any) -> RunConfig:
    return resolve(TrainConfig(model="tiny", method=method, group_size=2, explanation=ExpoConfig(**explanation)))


CONFIG = configured()
BY_TOKEN = configured(exp_sft_normalisation="token")


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
    falling = configured(exp_sft_schedule="linear")
    assert chain_rows([chain], 2, falling, 0.75)[0].sft_weight == pytest.approx(0.005)


def test_the_chain_stands_outside_the_group() -> None:
    chain = Chain((1, 2), (3, 4))
    with_chain = METHOD_ROWS["exp-grpo"](Experience((MIXED, WRONG), (chain,), 0.0), CONFIG)
    without = METHOD_ROWS["grpo"](Experience((MIXED, WRONG), (), 0.0), CONFIG)
    assert with_chain[:-1] == without
    assert with_chain[-1].advantage == 0.0
    assert with_chain[-1].weight == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_coefficient_that_falls_is_logged(method: Method) -> None:
    config = configured(method, exp_sft_schedule="linear")
    logged = experience_metrics(Experience((MIXED,), (), 0.75), config).get("expo/sft_coef")
    assert logged == (METHODS[method].coef and pytest.approx(config.explanation.exp_sft_coef / 4))  # type: ignore[operator]
    assert "expo/sft_coef" not in experience_metrics(Experience((), (), 0.0), configured(method, exp_sft_coef=0.0))


def test_explanations_that_are_used_again_are_not_accepted_anew() -> None:
    def made(*, accepted: bool) -> Explanation:
        return Explanation(
            Problem("p", "q", "1"),
            WRONG.completions[0],
            (1, 2),
            (3,),
            WRONG.verdicts[0],
            accepted,
            "yes" if accepted else "no",
        )

    old, new, refused = made(accepted=True), made(accepted=True), made(accepted=False)
    first = experience_metrics(Experience((), (), 0.0, explanations=(new,), attempts=(refused, new)), CONFIG)
    assert (first["expo/explanation_accept_rate"], first.get("expo/reused")) == (1.0, None)
    later = Experience((), (), 0.0, explanations=(old, old, refused, new), attempts=(refused, new))
    again = experience_metrics(later, CONFIG)
    assert (again["expo/explanation_accept_rate"], again["expo/reused"]) == (0.5, 0.5)
    assert again["expo/refused/no"] == 0.5
    kept = experience_metrics(Experience((), (), 0.0, explanations=(old,)), CONFIG)
    assert "expo/explanation_accept_rate" not in kept and kept["expo/reused"] == 1.0


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
    assert [len(row.sampler_logprobs) for row in rows] == [0, 2, 1, 1]  # sampled after this prompt, so compared
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
    old = tuple(METHODS)[:6]
    assert [source(method) for method in old] == ["none", explained, "expert", explained, explained, "expert"]
    assert source("exp-dpo", dpo=DpoConfig(chosen="expert")) == "expert"
    # a coefficient of 0 spares the sampling where it would scale the chains, and only there
    assert [source(method, 0.0) for method in old] == ["none", "none", "none", explained, explained, "expert"]


# --- remedies for all-wrong groups -------------------------------------------------------------------------------


def test_a_second_group_is_learned_from_and_the_first_one_logged() -> None:
    """After the prompt it was sampled after, with the sampler's values; or after another, without."""
    sampled = dataclasses.replace(MIXED, completions=tuple(
        dataclasses.replace(c, prompt_ids=(1, 2, 9)) for c in MIXED.completions
    ))  # fmt: skip
    for trained_after, prompt in ((None, (1, 2, 9)), ((1, 2), (1, 2))):
        second = dataclasses.replace(sampled, trained_after=trained_after)
        experience = Experience((RIGHT, WRONG), (), 0.0, second={1: second})
        rows = METHOD_ROWS["prefix"](experience, CONFIG)
        assert [row.prompt_ids for row in rows[2:]] == [prompt] * 2
        assert [bool(row.sampler_logprobs) for row in rows[2:]] == [trained_after is None] * 2
        assert [row.advantage for row in rows] == pytest.approx([0, 0, 0.70701, -0.70701], abs=1e-4)
        assert experience_metrics(experience, CONFIG)["frac_all_wrong"] == 0.5


def test_insert_rows_by_hand() -> None:
    chain, other = Chain((1, 2), (3, 4, 5, 6)), Chain((7,), (8,))
    alone = dataclasses.replace(WRONG, completions=tuple(
        dataclasses.replace(c, prompt_ids=(5,)) for c in WRONG.completions
    ))  # fmt: skip
    config = configured("insert")
    *sampled, joined = METHOD_ROWS["insert"](Experience((WRONG, alone), (chain, other), 0.0), config)
    # the mean over five completions, of 2, 2, 2, 2 and 4 tokens; the advantage of 1 among zeros is 1
    assert [row.weight for row in sampled] == pytest.approx([1 / 10] * 4)
    assert not any(row.has_gradient for row in sampled)
    assert (joined.completion_ids, joined.prompt_ids, joined.weight) == ((3, 4, 5, 6), (1, 2), 0.0)
    assert joined.shaped_weight == pytest.approx(1 / 20)
    # a mixed group of the same problem has none: it did not pass the gate
    assert len(METHOD_ROWS["insert"](Experience((MIXED, WRONG), (chain,), 0.0), config)) == 4 + 1
    # without the gate, of a mixed group: 1/2 over sqrt(1/2); the others stay as they are
    config, ten_times = configured("insert", explain="all"), configured("insert", explain="all", exp_sft_coef=10.0)
    mixed = METHOD_ROWS["insert"](Experience((MIXED,), (chain,), 0.0), config)
    assert mixed[-1].shaped_weight == pytest.approx(0.70701 / 12, abs=1e-5)
    assert [r.advantage for r in mixed[:2]] == [r.advantage for r in grpo_rows(Experience((MIXED,), (), 0.0), CONFIG)]
    assert not METHOD_ROWS["insert"](Experience((RIGHT,), (chain,), 0.0), config)[-1].has_gradient
    weighed = METHOD_ROWS["insert"](Experience((MIXED,), (chain,), 0.0), ten_times)
    assert weighed[:2] == mixed[:2] and weighed[-1].shaped_weight == pytest.approx(10 * mixed[-1].shaped_weight)


def test_self_distill_rows_by_hand() -> None:
    gaps = {1: [torch.tensor([0.5, -3.0]), torch.tensor([7.0, 0.0])]}
    experience = Experience((MIXED, WRONG), (), 0.0, gaps=gaps)
    rows = METHOD_ROWS["self-distill"](experience, configured("self-distill"))
    assert rows[:2] == grpo_rows(Experience((MIXED, WRONG), (), 0.0), CONFIG)[:2]
    assert [row.token_advantages for row in rows[2:]] == [(0.5, -1.0), (1.0, 0.0)]
    assert [row.weight for row in rows[2:]] == pytest.approx([1 / 8] * 2)
    rows = METHOD_ROWS["self-distill"](experience, configured("self-distill", exp_sft_coef=10.0))
    assert [row.token_advantages for row in rows[2:]] == [(5.0, -10.0), (10.0, 0.0)]


@pytest.mark.parametrize(("teacher", "coef"), [("current", 0.01), ("frozen", 0.1)])
def test_soft_explain_rows_by_hand(teacher: Teacher, coef: float) -> None:
    labels = SoftLabels(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 2))
    config = configured("soft-explain", teacher=teacher)
    experience = Experience((MIXED, WRONG), (Chain((1, 2), (3, 4, 5, 6)),), 0.0, labels=[labels])
    *sampled, soft = METHOD_ROWS["soft-explain"](experience, config)
    assert sampled == grpo_rows(experience, config)
    assert soft.soft is labels
    assert (soft.weight, soft.sft_weight) == (0.0, 0.0)
    assert soft.soft_weight == pytest.approx(coef / 2 / 4)  # over two problems, over four tokens


def test_rewards_of_likelihood_stand_in_for_those_of_the_verifier() -> None:
    experience = Experience((MIXED, WRONG), (), 0.0, rewards={1: (0.2, 0.0)})
    rows = METHOD_ROWS["likelihood"](experience, CONFIG)
    # 0.1 over sqrt(0.02) + 1e-4
    assert [row.advantage for row in rows[2:]] == pytest.approx([0.70661, -0.70661], abs=1e-4)
    assert rows[:2] == grpo_rows(experience, CONFIG)[:2]


def test_grade_negatives_rows_by_hand() -> None:
    """p = 0.4 and 0.2 as the mean over tokens: -1/24 and 1/24; mixed and right groups stay as they are."""
    logprobs = ((math.log(0.8), math.log(0.2)), (math.log(0.2),) * 2)
    graded = dataclasses.replace(WRONG, completions=tuple(
        dataclasses.replace(c, logprobs=own) for c, own in zip(WRONG.completions, logprobs, strict=True)
    ))  # fmt: skip
    experience = Experience((MIXED, graded, RIGHT), (), 0.0)
    rows = METHOD_ROWS["grade-negatives"](experience, configured("grade-negatives"))
    assert [row.advantage for row in rows[2:4]] == pytest.approx([-1 / 24, 1 / 24])
    assert rows[:2] + rows[4:] == grpo_rows(experience, CONFIG)[:2] + grpo_rows(experience, CONFIG)[4:]


@pytest.mark.parametrize("method", ["insert", "self-distill", "soft-explain", "likelihood", "grade-negatives"])
def test_groups_do_not_see_each_other(method: Method) -> None:
    """A failed group's rows learn the same beside any other; their weights follow from all lengths, as in GRPO."""
    chains = (Chain((1, 2), (3, 4)),)
    label = SoftLabels(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1))

    def sampled(group: Group, prompt: tuple[int, ...], *logprobs: float) -> Group:
        pairs = zip(group.completions, logprobs, strict=True)
        own = [dataclasses.replace(c, prompt_ids=prompt, logprobs=(each,) * len(c.token_ids)) for c, each in pairs]
        return dataclasses.replace(group, completions=tuple(own))

    def first(other: Group) -> list[tuple[Any, ...]]:
        groups = sampled(WRONG, (1, 2), -0.1, -0.9), sampled(other, (5,), -0.01, -3.0)
        experience = Experience(groups, chains, 0.0, rewards={0: (0.3, 0.1)}, labels=[label],
                                gaps={0: [torch.tensor([1.0, 0.5])] * 2})  # fmt: skip
        rows = [row for row in METHOD_ROWS[method](experience, configured(method)) if row.prompt_ids == (1, 2)]
        assert any(row.has_gradient for row in rows)
        return [
            (row.advantage, row.token_advantages, row.completion_ids, row.shaped_weight, row.soft_weight)
            for row in rows
        ]

    assert first(MIXED) == first(RIGHT) == first(WRONG)
