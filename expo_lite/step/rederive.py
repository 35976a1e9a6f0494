"""Whether a chain leads to its answer: from the chain without it, does the policy reach the answer again?

And the judging of explanations where that can be asked for: with a policy and a task at hand, within limits of memory.
"""

import dataclasses
from collections.abc import Sequence

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_question
from expo_lite.records import Completion, Explanation, Group, Problem, SampleRequest, SamplingParams
from expo_lite.settings.groups import ExpoConfig
from expo_lite.step.chain_text import before_answer
from expo_lite.step.explain import encode_text, judge_attempts
from expo_lite.step.rollout import grade_groups
from expo_lite.tasks import Task


def rederived(
    policy: Policy, task: Task, chains: Sequence[tuple[Problem, str]], *, params: SamplingParams
) -> list[bool]:
    """Of each (problem, chain text): whether the policy, which goes on greedily from the chain without its answer after
    the plain prompt, ends with the right answer.

    A chain whose steps do not lead there, and which only states the answer, is not carried on to it. Costs one short
    completion a chain: it may have what `max_completion_tokens` leaves behind the chain, rounded down to eighths, so
    that it stays in the context and depends on no other chain.
    """  # noqa: D205 (one sentence)
    beginnings = [before_answer(text) for _, text in chains]
    encoded = [encode_text(policy, before) for before in beginnings]
    eighth = max(params.max_completion_tokens // 8, 1)
    limits = [max((params.max_completion_tokens - len(ids)) // eighth * eighth, 1) for ids in encoded]
    whole: dict[int, tuple[Completion]] = {}
    for limit in sorted(set(limits)):
        own = [i for i in range(len(chains)) if limits[i] == limit]
        requests = [SampleRequest(encode_question(policy.tokenizer, chains[i][0]) + encoded[i], 1) for i in own]
        greedy = dataclasses.replace(params, temperature=0.0, max_completion_tokens=limit)
        for i, (completion,) in zip(own, policy.sample(requests, greedy, seed=0), strict=True):
            whole[i] = (dataclasses.replace(completion, text=beginnings[i] + completion.text),)
    groups = grade_groups(task, [problem for problem, _ in chains], [whole[i] for i in range(len(chains))])
    return [group.verdicts[0].correct for group in groups]


def judge_within(
    policy: Policy,
    task: Task,
    attempts: Sequence[Group],
    config: ExpoConfig,
    *,
    params: SamplingParams,
    limits: Limits,
) -> list[list[Explanation]]:
    """`judge_attempts`, with micro-batches and sampling rows as `limits` has them."""

    def again(chains: Sequence[tuple[Problem, str]]) -> list[bool]:
        return rederived_within(policy, task, chains, params=params, limits=limits)

    return limits.updating(
        lambda: judge_attempts(policy, attempts, config, token_budget=limits.micro_batch_tokens, rederive=again)
    )


def rederived_within(
    policy: Policy, task: Task, chains: Sequence[tuple[Problem, str]], *, params: SamplingParams, limits: Limits
) -> list[bool]:
    """`rederived`, with as many rows at a time as `limits` has."""
    return limits.sampling(
        lambda: rederived(policy, task, chains, params=dataclasses.replace(params, rows=limits.sampling_rows))
    )
