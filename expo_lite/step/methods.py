"""The methods: what each samples to learn from, and how that becomes weighted rows of one batch.

`settings/methods.py` says what each method asks for. To add one, name it there and name its rows in `METHOD_ROWS`.
Where a method only samples or rewards in its own way, its rows are GRPO's, and the function in `METHOD_EXTRAS` says
from which paper it is.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from expo_lite.objectives import confidence_advantages, group_advantages, inserted_advantages, scheduled, token_weights
from expo_lite.policy.batching import Row, Side, SoftLabels
from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, Group, GroupKind, Pair, Problem
from expo_lite.run.metrics import explanation_metrics, group_metrics, mean
from expo_lite.settings.methods import METHODS, Method
from expo_lite.settings.train import RunConfig
from expo_lite.step.explain import encode_chain, sample_groups
from expo_lite.step.pairs import make_pairs
from expo_lite.step.remedies import failed, likelihood_rewards, prefixed, resampled, teacher_gaps, teacher_labels
from expo_lite.step.rewriting import hinted, reformulated
from expo_lite.step.run import Run

LARGEST_GAP = 1.0
"""The largest advantage: the gap of a token's log-probabilities under teacher and policy, nats."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought to imitate: `target_ids` after the plain prompt `prompt_ids`."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...] = ()
    """Its log-probabilities, if it was sampled after this very prompt."""


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
    second: Mapping[int, Group] = field(default_factory=dict)
    """Groups to learn from instead, by the place of the all-wrong group; the log's figures are those of `groups`."""
    written: Sequence[dict[str, Any]] = ()
    """Hints and forms of problems that the policy wrote, as rows for the log."""
    rewards: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Rewards in place of the verifier's, by the place of the all-wrong group."""
    gaps: Mapping[int, Sequence[torch.Tensor]] = field(default_factory=dict)
    """l_T - l_S of each token of each completion, by the place of the all-wrong group."""
    labels: Sequence[SoftLabels] = ()
    """The teacher's distributions along each chain."""

    @property
    def learned(self) -> tuple[Group, ...]:
        """The groups to learn from."""
        return tuple(self.second.get(i, group) for i, group in enumerate(self.groups))

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
    found = Experience(tuple(groups), chains, progress, explanations=tuple(explanations), attempts=tuple(attempts))
    return replace(found, **METHOD_EXTRAS[config.method](run, found)) if config.method in METHOD_EXTRAS else found


def _sample_pairs(run: Run, problems: Sequence[Problem], progress: float) -> Experience:
    """Take pairs that are young enough and make the others; offline, by the initial policy: the adapter is off."""
    store, config = run.pairs, run.config
    missing = [p for p in problems if store.get(p.problem_id, step=run.step) is None]
    with run.policy.reference() if config.dpo.pairs == "offline" else contextlib.nullcontext():
        groups, explanations, attempts = sample_groups(run, missing) if missing else ([], [], [])
    chosen = {e.problem.problem_id: e.target_ids for e in explanations if e.accepted}
    if config.chain_source == "expert":
        gated = [p for p in _gated(run, groups) if p.expert_chain]
        chosen = {p.problem_id: c.target_ids for p, c in zip(gated, _expert_chains(run, gated), strict=True)}
    new, metrics = run.limits.scored(make_pairs, run.policy, groups, chosen, temperature=config.sampling.temperature)
    store.put(new, step=run.step)
    pairs = tuple(pair for p in problems if (pair := store.get(p.problem_id, step=run.step)) is not None)
    made, metrics = tuple(new), metrics | {"pairs/used": len(pairs)}
    return Experience(tuple(groups), (), progress, pairs, tuple(explanations), tuple(attempts), made, metrics)


def _gated(run: Run, groups: Sequence[Group]) -> list[Problem]:
    """The problems whose expert chains are imitated."""
    return [group.problem for group in groups if _takes_chain(run.config, group)]


def _takes_chain(config: RunConfig, group: Group) -> bool:
    """Tell whether the gate lets the group's problem have a chain."""
    return config.explanation.explain == "all" or group.kind is GroupKind.ALL_WRONG


def _expert_chains(run: Run, problems: Iterable[Problem]) -> tuple[Chain, ...]:
    """The chains of the problems that have one."""
    policy = run.policy
    return tuple(
        Chain(encode_question(policy.tokenizer, p), encode_chain(policy, p)) for p in problems if p.expert_chain
    )


def experience_metrics(experience: Experience, config: RunConfig) -> dict[str, float]:
    """Metrics of what a step has sampled."""
    metrics = dict(experience.metrics)
    if experience.groups:
        metrics |= group_metrics(experience.groups)
    made = {id(attempt) for attempt in experience.attempts}
    if new := [explanation for explanation in experience.explanations if id(explanation) in made]:
        metrics |= explanation_metrics(new)
    if n_again := len(experience.explanations) - len(new):
        metrics["expo/reused"] = n_again / len(experience.explanations)
    if experience.attempts:
        metrics["expo/attempt_accept_rate"] = mean(attempt.accepted for attempt in experience.attempts)
    if experience.second:
        metrics["second/groups"] = len(experience.second) / len(experience.groups)
        metrics["second/reward"] = mean(reward for group in experience.second.values() for reward in group.rewards)
    if experience.rewards:
        metrics["reward/likelihood"] = mean(reward for rewards in experience.rewards.values() for reward in rewards)
    if experience.gaps:
        metrics["teacher/gap"] = mean(
            gap for gaps in experience.gaps.values() for gap in torch.cat(list(gaps)).tolist()
        )
    if METHODS[config.method].coef is not None and config.explanation.exp_sft_coef:
        metrics["expo/sft_coef"] = coefficient_in_force(config, experience.progress)
    return metrics


def grpo_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """The GRPO term: every completion with its advantage; the weights are those of the whole batch."""
    loss, groups = config.loss, experience.learned
    rewards_PG = torch.tensor([experience.rewards.get(i, group.rewards) for i, group in enumerate(groups)])
    advantages = group_advantages(rewards_PG, scale=loss.advantage_scale).flatten().tolist()
    completions = [completion for group in groups for completion in group.completions]
    prompts = [group.trained_after or c.prompt_ids for group in groups for c in group.completions]
    weights = _weights((len(completion.token_ids) for completion in completions), config)
    return [
        Row(
            prompt_ids,
            completion.token_ids,
            advantage=advantage,
            weight=weight,
            kl_weight=weight if loss.kl_coef else 0.0,
            sampler_logprobs=completion.logprobs if prompt_ids == completion.prompt_ids else (),
        )
        for prompt_ids, completion, advantage, weight in zip(prompts, completions, advantages, weights, strict=True)
    ]


def _weights(lengths: Iterable[int], config: RunConfig) -> list[float]:
    """The weight of each completion's tokens, of the whole batch."""
    normalisation, most = config.loss.loss_normalisation, config.sampling.max_completion_tokens
    weights_B = token_weights(torch.tensor([*lengths]), normalisation=normalisation, max_completion_tokens=most)
    return list(weights_B.tolist())


def supervised_rows(chains: Sequence[Chain], total_weight: float, config: RunConfig) -> list[Row]:
    """Chains to imitate, each of which gets `total_weight`: spread over its tokens, or in full for each of them."""
    by_token = config.explanation.exp_sft_normalisation == "token"
    weights = (total_weight / (len(c.target_ids) if by_token else 1) for c in chains)
    return [
        Row(c.prompt_ids, c.target_ids, sft_weight=weight, sampler_logprobs=c.sampler_logprobs)
        for c, weight in zip(chains, weights, strict=True)
    ]


def chain_rows(chains: Sequence[Chain], n_problems: int, config: RunConfig, progress: float) -> list[Row]:
    """The supervised term: exp_sft_coef log pi(chain | q), averaged over all of the step's problems."""
    return supervised_rows(chains, coefficient_in_force(config, progress) / n_problems, config)


def coefficient_in_force(config: RunConfig, progress: float) -> float:
    """exp_sft_coef as scheduled."""
    expl = config.explanation
    return scheduled(expl.exp_sft_coef or 0.0, schedule=expl.exp_sft_schedule, progress=progress)


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
        chains = [Chain(c.prompt_ids, c.token_ids, c.logprobs) for c in right]
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


def insert_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """Let each accepted explanation join its group with reward 1, after the plain prompt (LUFFY, 2504.14945, eq. 6).

    Its advantage is measured by the sampled completions (`inserted_advantages`), its term shaped and not clipped
    (`shaped_loss`), times --exp-sft-coef, 1 in the paper; the others' terms are GRPO's. Where this leaves the paper:
    the chain is the policy's own accepted explanation and not a stronger model's; it stands beside all G samples and
    takes the place of none; by default only all-wrong groups get one; lengths and the deviation divide as the settings
    of the loss say, where the paper's runs leave both out (Dr. GRPO), so that with the mean over completions each chain
    also lowers the others' weights; and there is no bonus of entropy.
    """
    rows = grpo_rows(experience, config)
    rewards_PG = torch.tensor([group.rewards for group in experience.groups])
    advantages = inserted_advantages(rewards_PG, scale=config.loss.advantage_scale).tolist()
    chains = {chain.prompt_ids: chain for chain in experience.chains}
    joining = [
        (chain, advantage)
        for group, advantage in zip(experience.groups, advantages, strict=True)
        if _takes_chain(config, group) and (chain := chains.get(group.completions[0].prompt_ids))
    ]
    lengths = [len(row.completion_ids) for row in rows] + [len(chain.target_ids) for chain, _ in joining]
    weights, coefficient = _weights(lengths, config), coefficient_in_force(config, experience.progress)
    rows = [
        replace(row, weight=w, kl_weight=w if row.kl_weight else 0.0) for row, w in zip(rows, weights, strict=False)
    ]
    return rows + [
        Row(chain.prompt_ids, chain.target_ids, shaped_weight=coefficient * weight * advantage)
        for (chain, advantage), weight in zip(joining, weights[len(rows) :], strict=True)
    ]


def self_distill_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """Let the policy that sees the answer judge each token of all-wrong groups: A_t = c clip(sg(l_T - l_S), -1, 1).

    c is --exp-sft-coef. In expectation the gradient of KL(S || T), of the policy S to the teacher T (OPSD, arXiv
    2601.18734, whose code has this sampled form, -sg(l_T - l_S) log p_S, beside a full divergence, and a teacher with
    the adapter off). Where this leaves OPSD: T sees the answer alone and no reference solution; groups with a right
    completion are left to GRPO; gaps and ratios are clipped. SDFT (arXiv 2601.19897) shows T a demonstration, with
    averaged weights. SDAR (arXiv 2605.15155) gates its term by the gap and never pushes down; this form is signed. Of
    these two, and of OPSD's text, the equations were not at hand.
    """
    rows, coefficient = grpo_rows(experience, config), coefficient_in_force(config, experience.progress)
    for i, gaps in experience.gaps.items():
        for k, gap_T in enumerate(gaps, start=i * config.group_size):
            advantages = coefficient * gap_T.clamp(-LARGEST_GAP, LARGEST_GAP)
            rows[k] = replace(rows[k], token_advantages=tuple(advantages.tolist()))
    return rows


def soft_explain_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """GRPO, and on each accepted explanation lambda times the mean over tokens of JSD(T, S) (HDPO, arXiv 2603.23871).

    L_GRPO + lambda L_JSD is its section 3.2. T is the teacher, which sees the answer; of its distribution the 64 most
    probable tokens count one by one. lambda is --exp-sft-coef. Where this leaves the paper: T sees the answer alone and
    not a reference solution; the rest of both distributions counts as one more token, where the paper makes the 64 add
    up to 1 and charges what the policy has beyond them with ln 2; and the term is averaged over all of the step's
    problems. Its text was not at hand, but a summary of it.
    """
    weight = coefficient_in_force(config, experience.progress) / len(experience.groups)
    return grpo_rows(experience, config) + [
        Row(chain.prompt_ids, chain.target_ids, soft_weight=weight / len(chain.target_ids), soft=labels)
        for chain, labels in zip(experience.chains, experience.labels, strict=True)
    ]


def grade_negatives_rows(experience: Experience, config: RunConfig) -> list[Row]:
    """GRPO; in all-wrong groups the more confident a completion, the worse (LENS, arXiv 2510.08696).

    The advantages are those of `confidence_advantages`, from the log-probabilities of sampling, times --exp-sft-coef
    (the paper's alpha). Where this leaves the paper: its wrong completions in mixed groups are graded too, and keep
    GRPO's advantage here.
    """
    rows, coefficient = grpo_rows(experience, config), coefficient_in_force(config, experience.progress)
    for i in failed(experience.groups):
        completions = experience.groups[i].completions
        nats_G = torch.tensor([mean(completion.logprobs) for completion in completions])
        graded = coefficient * confidence_advantages(nats_G)
        for k, advantage in enumerate(graded.tolist(), start=i * len(completions)):
            rows[k] = replace(rows[k], advantage=advantage)
    return rows


METHOD_EXTRAS: dict[Method, Callable[[Run, Experience], dict[str, Any]]] = {
    "grpo": lambda run, found: dict(zip(("second", "metrics"), resampled(run, found.groups), strict=True)),
    "prefix": lambda run, found: {"second": prefixed(run, found.groups, found.explanations)},
    "self-distill": lambda run, found: {"gaps": teacher_gaps(run, found.groups)},
    "soft-explain": lambda run, found: {"labels": teacher_labels(run, [e for e in found.explanations if e.accepted])},
    "likelihood": lambda run, found: {"rewards": likelihood_rewards(run, found.groups)},
    "hint": lambda run, found: hinted(run, found.groups, found.explanations),
    "reformulate": lambda run, found: reformulated(run, found.groups),
}
"""Fields of the experience for which a method asks the policy once more, after groups and explanations."""
METHOD_ROWS: dict[Method, Callable[[Experience, RunConfig], list[Row]]] = {
    "grpo": grpo_rows,
    "exp-grpo": grpo_and_chain_rows,
    "gt-sft-grpo": grpo_and_chain_rows,
    "exp-dpo": dpo_rows,
    "star": star_rows,
    "sft": sft_rows,
    "insert": insert_rows,
    "prefix": grpo_rows,
    "self-distill": self_distill_rows,
    "soft-explain": soft_explain_rows,
    "likelihood": grpo_rows,
    "grade-negatives": grade_negatives_rows,
    "hint": grpo_rows,
    "reformulate": grpo_rows,
}
