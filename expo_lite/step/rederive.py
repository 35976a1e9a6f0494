"""Whether a chain leads to its answer: from the chain without it, does the policy reach the answer again?

And the judging of explanations where that can be asked for: with a policy and a task at hand, within limits of memory.
"""

import dataclasses
from collections.abc import Sequence

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, Group, Problem, SampleRequest, SamplingParams
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
    completion a chain.
    """  # noqa: D205 (one sentence)
    beginnings = [before_answer(text) for _, text in chains]
    requests = [
        SampleRequest(encode_question(policy.tokenizer, problem) + encode_text(policy, before), 1)
        for (problem, _), before in zip(chains, beginnings, strict=True)
    ]
    sampled = policy.sample(requests, dataclasses.replace(params, temperature=0.0), seed=0) if requests else []
    whole = [
        (dataclasses.replace(completion, text=before + completion.text),)
        for before, (completion,) in zip(beginnings, sampled, strict=True)
    ]
    groups = grade_groups(task, [problem for problem, _ in chains], whole)
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
