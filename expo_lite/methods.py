"""What a method is: which chains it asks for beside the groups, and how both become weighted rows of one batch.

To add one, write a function from `Experience` to rows, and name it in `METHODS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from expo_lite.batching import Row
from expo_lite.config import TrainConfig
from expo_lite.objectives import group_advantages, scheduled, token_weights
from expo_lite.records import Group, GroupKind


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought to imitate: `target_ids` behind the plain prompt `prompt_ids`."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Experience:
    """All that one step sampled: a group for each problem, chains for some of them, and where in the run we are (0 to 1)."""

    groups: tuple[Group, ...]
    chains: tuple[Chain, ...]
    progress: float


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method: the source of its chains, and its rows."""

    chains: Literal["none", "explanation", "expert"]
    rows: Callable[[Experience, TrainConfig], list[Row]]


def grpo_rows(experience: Experience, config: TrainConfig) -> list[Row]:
    """The GRPO term: every completion with its advantage; the weights are those of the whole batch."""
    loss = config.loss
    rewards_PG = torch.tensor([group.rewards for group in experience.groups])
    advantages = group_advantages(rewards_PG, scale=loss.advantage_scale).flatten().tolist()
    completions = [completion for group in experience.groups for completion in group.completions]
    kinds = [group.kind for group in experience.groups for _ in group.completions]
    weights = token_weights(
        torch.tensor([len(completion.token_ids) for completion in completions]),
        normalisation=loss.loss_normalisation,
        max_completion_tokens=config.max_completion_tokens,
    ).tolist()
    return [
        Row(
            completion.prompt_ids,
            completion.token_ids,
            advantage=advantage,
            weight=weight,
            kl_weight=weight if loss.kl_coef and (loss.kl_on_dead_groups or kind is GroupKind.MIXED) else 0.0,
            sampler_logprobs=completion.logprobs,
        )
        for completion, kind, advantage, weight in zip(completions, kinds, advantages, weights, strict=True)
    ]


def chain_rows(chains: Sequence[Chain], n_problems: int, config: TrainConfig, progress: float) -> list[Row]:
    """The supervised term: exp_sft_coef log pi(chain | q), averaged over the step's problems, with a chain or without."""
    expl = config.explanation
    coefficient = scheduled(expl.exp_sft_coef, schedule=expl.exp_sft_schedule, progress=progress) / n_problems
    rows = []
    for chain in chains:
        divisor = len(chain.target_ids) if expl.exp_sft_normalisation == "token" else 1
        rows.append(Row(chain.prompt_ids, chain.target_ids, sft_weight=coefficient / divisor))
    return rows


def grpo_and_chain_rows(experience: Experience, config: TrainConfig) -> list[Row]:
    """ExP-GRPO and GT-SFT-GRPO: the GRPO term and the supervised term; the chains stand outside the groups."""
    supervised = chain_rows(experience.chains, len(experience.groups), config, experience.progress)
    return grpo_rows(experience, config) + supervised


METHODS: dict[str, MethodSpec] = {
    "grpo": MethodSpec(chains="none", rows=grpo_rows),
    "exp-grpo": MethodSpec(chains="explanation", rows=grpo_and_chain_rows),
    "gt-sft-grpo": MethodSpec(chains="expert", rows=grpo_and_chain_rows),
}
