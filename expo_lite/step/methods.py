"""The methods: what each samples to learn from, and how that becomes weighted rows of one batch.

`settings/methods.py` says what each method asks for. To add one, name it there and name its rows in `METHOD_ROWS`.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from expo_lite.objectives import group_advantages, scheduled, token_weights
from expo_lite.policy.batching import Row, Side
from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, Group, GroupKind, Pair, Problem
from expo_lite.run.metrics import explanation_metrics, group_metrics, mean
from expo_lite.settings.methods import METHODS, Method
from expo_lite.settings.train import RunConfig
from expo_lite.step.explain import encode_target, sample_groups
from expo_lite.step.pairs import make_pairs
from expo_lite.step.run import Run


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought to imitate: `target_ids` after the plain prompt `prompt_ids`."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Experience:
    """The experience of one step: a group for each problem, chains for some, and progress (0 to 1).

    A method of pairs has no chains, and groups only of problems without a pair. `explanations`, `new_pairs` and
    `metrics` are for the log; no method learns from them.
    """

    groups: tuple[Group, ...]
    chains: tuple[Chain, ...]
    progress: float
    pairs: tuple[Pair, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    attempts: tuple[Explanation, ...] = ()
    """All explanations sampled at this step; `explanations` has the best of each problem."""
    new_pairs: tuple[Pair, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    unsampled: int = 0
    """Problems without a group, because the method would learn nothing from it."""

    @property
    def n_problems(self) -> int:
        """The problems that a term is averaged over."""
        return len(self.groups) + self.unsampled


def sample_experience(run: Run, problems: Sequence[Problem]) -> Experience:
    """Sample what the run's method asks for on these problems."""
    config, spec = run.config, METHODS[run.config.method]
    progress = run.step / config.steps
    if spec.pairs:
        return _sample_pairs(run, problems, progress)
    if not spec.groups and config.explanation.explain == "all":
        return Experience((), _expert_chains(run, problems), progress, unsampled=len(problems))
    groups, explanations, attempts = sample_groups(run, problems)
    chains = tuple(Chain(e.prompt_ids, e.target_ids) for e in explanations if e.accepted)
    if config.chain_source == "expert":
        chains = _expert_chains(run, _gated(run, groups))
    return Experience(tuple(groups), chains, progress, explanations=tuple(explanations), attempts=tuple(attempts))


def _sample_pairs(run: Run, problems: Sequence[Problem], progress: float) -> Experience:
    """Take pairs that are young enough and make the others; offline, by the initial policy: the adapter is off."""
    store, limits, config = run.pairs, run.limits, run.config
    missing = [p for p in problems if store.get(p.problem_id, step=run.step) is None]
    with run.policy.reference() if config.dpo.pairs == "offline" else contextlib.nullcontext():
        groups, explanations, attempts = sample_groups(run, missing) if missing else ([], [], [])
    chosen = {e.problem.problem_id: e.target_ids for e in explanations if e.accepted}
    if config.chain_source == "expert":
        gated = [p for p in _gated(run, groups) if p.expert_chain]
        chosen = {p.problem_id: c.target_ids for p, c in zip(gated, _expert_chains(run, gated), strict=True)}
    temperature = config.sampling.temperature
    new, metrics = limits.updating(
        lambda: make_pairs(run.policy, groups, chosen, temperature=temperature, token_budget=limits.micro_batch_tokens)
    )
    store.put(new, step=run.step)
    pairs = tuple(pair for p in problems if (pair := store.get(p.problem_id, step=run.step)) is not None)
    return Experience(
        tuple(groups),
        (),
        progress,
        pairs,
        tuple(explanations),
        tuple(attempts),
        tuple(new),
        metrics | {"pairs/used": len(pairs)},
    )


def _gated(run: Run, groups: Sequence[Group]) -> list[Problem]:
    """The problems whose expert chains are imitated."""
    everything = run.config.explanation.explain == "all"
    return [group.problem for group in groups if everything or group.kind is GroupKind.ALL_WRONG]


def _expert_chains(run: Run, problems: Iterable[Problem]) -> tuple[Chain, ...]:
    """The chains of the problems that have one."""
    policy = run.policy
    return tuple(
        Chain(encode_question(policy.tokenizer, p), encode_target(policy, p.expert_chain))
        for p in problems
        if p.expert_chain
    )


def experience_metrics(experience: Experience, config: RunConfig) -> dict[str, float]:
    """Metrics of what a step has sampled."""
    metrics = dict(experience.metrics)
    if experience.groups:
        metrics |= group_metrics(experience.groups)
    if experience.explanations:
        metrics |= explanation_metrics(experience.explanations)
    if experience.attempts:
        metrics["expo/attempt_accept_rate"] = mean(attempt.accepted for attempt in experience.attempts)
    if METHODS[config.method].scaled and config.chain_source != "none":
        metrics["expo/sft_coef"] = coefficient_in_force(config, experience.progress)
    return metrics


def grpo_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """The GRPO term: every completion with its advantage; the weights are those of the whole batch."""
    loss = config.loss
    rewards_PG = torch.tensor([group.rewards for group in experience.groups])
    advantages = group_advantages(rewards_PG, scale=loss.advantage_scale).flatten().tolist()
    completions = [completion for group in experience.groups for completion in group.completions]
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
            kl_weight=weight if loss.kl_coef else 0.0,
            sampler_logprobs=completion.logprobs,
        )
        for completion, advantage, weight in zip(completions, advantages, weights, strict=True)
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
    """ExP-DPO: two rows a pair; the loss is a mean over the step's pairs."""
    rows, n = [], len(experience.pairs)
    for k, pair in enumerate(experience.pairs):
        chosen, rejected = Side(k, True, pair.ref_chosen_nats, 1 / n), Side(k, False, pair.ref_rejected_nats, 1 / n)
        rows.append(Row(pair.prompt_ids, pair.chosen_ids, side=chosen))
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
