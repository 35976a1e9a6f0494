"""The rows of each method: groups, chains and pairs become weighted rows of one batch.

`settings/methods.py` says what each method asks for. To add one, name it there and name its rows in `METHOD_ROWS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from expo_lite.objectives import group_advantages, scheduled, token_weights
from expo_lite.policy.batching import Row, Side
from expo_lite.records import Explanation, Group, Pair
from expo_lite.settings.methods import Method
from expo_lite.settings.train import RunConfig


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought to imitate: `target_ids` after the plain prompt `prompt_ids`."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Experience:
    """All that one step learns from: a group for each problem, chains for some, and progress (0 to 1).

    A method of pairs has no chains, and groups only of the problems that had no pair yet. `explanations`, `new_pairs`
    and `metrics` tell how it came about; no method learns from them.
    """

    groups: tuple[Group, ...]
    chains: tuple[Chain, ...]
    progress: float
    pairs: tuple[Pair, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    attempts: tuple[Explanation, ...] = ()
    """All that were sampled at this step, of which `explanations` has the best of each problem."""
    new_pairs: tuple[Pair, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    unsampled: int = 0
    """Problems of which no group was sampled, because nothing would be learned from it."""

    @property
    def n_problems(self) -> int:
        """The problems that a term is averaged over."""
        return len(self.groups) + self.unsampled


def grpo_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """The GRPO term: every completion with its advantage; the weights are those of the whole batch."""
    loss = config.loss
    rewards_PG = torch.tensor([group.rewards for group in experience.groups])
    advantages = group_advantages(rewards_PG, scale=loss.advantage_scale).flatten().tolist()
    completions = [completion for group in experience.groups for completion in group.completions]
    dead = [group.is_dead for group in experience.groups for _ in group.completions]
    weights = token_weights(
        torch.tensor([len(completion.token_ids) for completion in completions]),
        normalisation=loss.loss_normalisation,
        max_completion_tokens=config.sampling.max_completion_tokens,
    ).tolist()
    return [
        Row(
            completion.prompt_ids,
            completion.token_ids,
            advantage=advantage,
            weight=weight,
            kl_weight=weight if loss.kl_coef and (loss.kl_on_dead_groups or not is_dead) else 0.0,
            sampler_logprobs=completion.logprobs,
        )
        for completion, is_dead, advantage, weight in zip(completions, dead, advantages, weights, strict=True)
    ]


def supervised_rows(chains: Sequence[Chain], total_weight: float, config: RunConfig) -> list[Row]:
    """Chains to imitate, each of which gets `total_weight`: spread over its tokens, or in full for each of them."""
    by_token = config.explanation.exp_sft_normalisation == "token"
    return [
        Row(c.prompt_ids, c.target_ids, sft_weight=total_weight / (len(c.target_ids) if by_token else 1))
        for c in chains
    ]


def chain_rows(chains: Sequence[Chain], n_problems: int, config: RunConfig, progress: float) -> list[Row]:
    """The supervised term: exp_sft_coef log pi(chain | q), averaged over all of the step's problems."""
    return supervised_rows(chains, coefficient_in_force(config, progress) / n_problems, config)


def coefficient_in_force(config: RunConfig, progress: float) -> float:
    """exp_sft_coef as scheduled."""
    expl = config.explanation
    return scheduled(expl.exp_sft_coef, schedule=expl.exp_sft_schedule, progress=progress)


def grpo_and_chain_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """ExP-GRPO and GT-SFT-GRPO: the GRPO term and the supervised term; the chains stand outside the groups."""
    supervised = chain_rows(experience.chains, len(experience.groups), config, experience.progress)
    return grpo_rows(experience, config) + supervised


def sft_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """Supervised fine-tuning on the chains alone: the mean of -log pi(chain | q) over the step's problems."""
    return supervised_rows(experience.chains, 1.0 / experience.n_problems, config)


def star_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """STaR (arXiv 2203.14465): the policy's own right answers, and explanations of the problems that it failed.

    Every problem has the same weight, and several right answers to one share it. Where this leaves the paper: it starts
    each round from the base model again, and asks once a problem; here the adapter goes on learning, from all G
    answers.
    """
    rows = sft_rows(experience, config)
    for group in experience.groups:
        right = [c for c, verdict in zip(group.completions, group.verdicts, strict=True) if verdict.correct]
        chains = [Chain(completion.prompt_ids, completion.token_ids) for completion in right]
        rows += supervised_rows(chains, 1.0 / len(experience.groups) / max(len(chains), 1), config)
    return rows


def dpo_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """ExP-DPO: two rows a pair, and the supervised term on the chosen one; the loss is a mean over the step's pairs."""
    rows, n = [], len(experience.pairs)
    for k, pair in enumerate(experience.pairs):
        sft_weight = config.dpo.dpo_sft_coef / n / len(pair.chosen_ids)
        chosen, rejected = Side(k, True, pair.ref_chosen_nats, 1 / n), Side(k, False, pair.ref_rejected_nats, 1 / n)
        rows.append(Row(pair.prompt_ids, pair.chosen_ids, sft_weight=sft_weight, side=chosen))
        rows.append(Row(pair.prompt_ids, pair.rejected_ids, side=rejected))
    return rows


METHOD_ROWS: dict[Method, Callable[[Experience, RunConfig], list[Row]]] = {
    "grpo": grpo_rows,
    "exp-grpo": grpo_and_chain_rows,
    "gt-sft-grpo": grpo_and_chain_rows,
    "exp-dpo": dpo_rows,
    "star": star_rows,
    "sft": sft_rows,
}
