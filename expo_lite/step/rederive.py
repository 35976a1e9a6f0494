"""Whether a chain leads to its answer: from the chain without it, does the policy reach the answer again?"""

import dataclasses
from collections.abc import Sequence

from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_question
from expo_lite.records import Problem, SampleRequest, SamplingParams
from expo_lite.step.chain_text import before_answer
from expo_lite.step.explain import encode_text
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
