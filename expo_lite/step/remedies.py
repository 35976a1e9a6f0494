"""The parts of the remedies for all-wrong groups that ask the policy again; `methods.py` makes rows of them.

Three pieces serve them all: a second group for a problem, sampled after any prompt and trained after any
(`sample_again`); an advantage for each token (`Row.token_advantages`); and a second scored pass by a teacher, which is
the policy when it also sees the answer, with the adapter on or off (`teacher`). Groups are named by their place in the
step.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence

import torch

from expo_lite.grading.reading.extract import answer_start
from expo_lite.memory.shapes import context_of
from expo_lite.policy.batching import Row, SoftLabels
from expo_lite.policy.scoring import score_rows, soft_labels
from expo_lite.prompts import encode_shown
from expo_lite.records import Explanation, FinishReason, Group, GroupKind, Problem
from expo_lite.run.metrics import mean
from expo_lite.step.chain_text import before_answer
from expo_lite.step.explain import answer_logprobs, encode_text
from expo_lite.step.rollout import Start, grade_groups, sample_from, stream_seed
from expo_lite.step.run import Run

SOFT_TOKENS = 64
"""Tokens of a teacher's distribution that count one by one; the rest counts as one."""
PREFIX_PARTS = 4
SOLVED = 0.5
"""A mean reward from which a problem counts as within reach."""


def failed(groups: Sequence[Group]) -> list[int]:
    """The places of the groups that are all wrong and have no advantage."""
    return [i for i, group in enumerate(groups) if group.kind is GroupKind.ALL_WRONG and group.is_dead]


# Second groups


def sample_again(run: Run, asked: Mapping[int, tuple[Problem, Sequence[Start]]], *, stream: str) -> dict[int, Group]:
    """Sample and grade one more group for each place; its completions begin where the starts say.

    A place whose prompt leaves no room for a completion in the model's context gets none.
    """
    tokens, config = run.params.max_completion_tokens, run.config
    room = (context_of(config.model, tokens, config.policy.revision) or math.inf) - tokens
    asked = {i: own for i, own in asked.items() if max(len(start.prompt_ids) for start in own[1]) <= room}
    starts = [start for _, own in asked.values() for start in own]
    seed = stream_seed(config.seed, stream, run.step)
    sampled = iter(sample_from(run.policy, starts, run.params, limits=run.limits, seed=seed))
    rows = [tuple(completion for _ in own for completion in next(sampled)) for _, own in asked.values()]
    return dict(zip(asked, grade_groups(run.task, [problem for problem, _ in asked.values()], rows), strict=True))


def resampled(run: Run, groups: Sequence[Group]) -> tuple[dict[int, Group], dict[str, float]]:
    """Sample all-wrong groups again, up to --resample times each: the first whose rewards differ, and metrics.

    Where this leaves DAPO (arXiv 2503.14476): it samples other prompts in place of groups without an advantage, until
    the batch is full; here the same problem is tried again, and what stays all wrong stays in the batch. Reinforce-Ada
    (arXiv 2510.04996) tries every problem until it has enough right answers, and trains on a choice of all samples.
    """
    found: dict[int, Group] = {}
    tries = 0
    for number in range(run.config.sampling.resample):
        missing = [i for i in failed(groups) if i not in found]
        asked = {
            i: (groups[i].problem, [Start(groups[i].completions[0].prompt_ids, run.config.group_size)]) for i in missing
        }
        again = sample_again(run, asked, stream=f"resample {number}")
        found |= {i: group for i, group in again.items() if not group.is_dead}
        tries += len(again)
    n_wrong = len(failed(groups))
    if not tries:
        return {}, {}
    return found, {"second/tries": tries / n_wrong, "second/still_wrong": (n_wrong - len(found)) / len(groups)}


def prefixed(run: Run, groups: Sequence[Group], explanations: Sequence[Explanation]) -> dict[int, Group]:
    """Sample all-wrong groups again after the first part of the problem's explanation (EvoCoT, arXiv 2508.07809).

    The explanation is cut before its answer. `run.prefixes` has how many of `PREFIX_PARTS` equal parts of it, counted
    in tokens, are given; where the group's mean reward reaches a half, the problem gets one less the next time. GRPO
    learns from the rest of the reply. Where this leaves the paper: the plain group is sampled at each step, and only if
    it is all wrong is there one with a prefix; the part shrinks by quarters of the tokens, not by a paragraph of the
    chain at each stage (`prepare_step_RL_data.py` of its code).
    """
    chains = {e.problem.problem_id: e for e in explanations if e.accepted}
    asked = {}
    for i in failed(groups):
        problem = groups[i].problem
        parts = run.prefixes.get(problem.problem_id, PREFIX_PARTS - 1)
        if parts and problem.problem_id in chains:
            chain = chains[problem.problem_id]
            ids = encode_text(run.policy, before_answer(chain.completion.text))
            given_ids = ids[: math.ceil(len(ids) * parts / PREFIX_PARTS)]
            asked[i] = (problem, [Start(chain.prompt_ids, run.config.group_size, given_ids)])
    again = sample_again(run, asked, stream="prefix")
    within_reach = {group.problem.problem_id for group in again.values() if mean(group.rewards) >= SOLVED}
    for problem_id in within_reach:
        run.prefixes[problem_id] = run.prefixes.get(problem_id, PREFIX_PARTS - 1) - 1
    return again


# Second passes


def teacher(run: Run) -> contextlib.AbstractContextManager[None]:
    """Make the policy the teacher in this context: as it is, or with --teacher frozen the reference."""
    return run.policy.reference() if run.config.explanation.teacher == "frozen" else contextlib.nullcontext()


def teacher_gaps(run: Run, groups: Sequence[Group]) -> dict[int, list[torch.Tensor]]:
    """l_T - l_S [T] of the tokens of each completion of the all-wrong groups, nats.

    The teacher scores the same tokens after the explanation prompt. l_S is what the sampler gave, and in 16 bits, where
    its error would go into every gap, the scorer's too.
    """
    places = failed(groups)
    completions = [completion for i in places for completion in groups[i].completions]
    prompts = [encode_shown(run.policy.tokenizer, groups[i].problem) for i in places]
    rows = [Row(prompt, c.token_ids) for i, prompt in zip(places, prompts, strict=True) for c in groups[i].completions]
    own, temperature = [torch.tensor(c.logprobs) for c in completions], run.config.sampling.temperature
    if not run.policy.samples_exactly:
        plain = [Row(c.prompt_ids, c.token_ids) for c in completions]
        own = run.limits.scored(score_rows, run.policy, plain, temperature=temperature)
    with teacher(run):
        scored = run.limits.scored(score_rows, run.policy, rows, temperature=temperature)
    gaps = iter(l_T - l_S for l_T, l_S in zip(scored, own, strict=True))
    return {i: [next(gaps) for _ in groups[i].completions] for i in places}


def teacher_labels(run: Run, explanations: Sequence[Explanation]) -> list[SoftLabels]:
    """The teacher's distribution at each token of each explanation, after the prompt that showed it the answer."""
    rows = [Row(e.completion.prompt_ids, e.target_ids) for e in explanations]
    temperature = run.config.sampling.temperature
    with teacher(run):
        return run.limits.scored(soft_labels, run.policy, rows, SOFT_TOKENS, temperature=temperature)


def likelihood_rewards(run: Run, groups: Sequence[Group]) -> dict[int, tuple[float, ...]]:
    """Rewards of the completions of all-wrong groups: how much more probable each makes the answer (RLPR, 2506.18254).

    The mean probability of the answer's tokens after the completion's reasoning, minus that without it, at least 0
    (`mean_exp_log_softmax` and scoreB - scoreA in its code). A completion without an answer, or cut off by the limit,
    has none to put the right one in place of, and gets 0. Where this leaves the paper: where the verifier tells
    completions apart, its reward stays; there is no reward of format, and no filter of groups whose rewards hardly
    differ, so that --advantage-scale group makes small differences large. VeriFree (arXiv 2505.21493) takes the product
    of the probabilities and also learns the answer itself; neither is done here.
    """
    places = failed(groups)
    answered = {
        (i, k): (groups[i].problem, completion.text)
        for i in places
        for k, completion in enumerate(groups[i].completions)
        if completion.finish_reason is FinishReason.STOP and answer_start(completion.text) is not None
    }
    scored = run.limits.scored(answer_logprobs, run.policy, list(answered.values()))
    gains = {
        place: max(float(with_chain.exp().mean() - without.exp().mean()), 0.0)
        for place, (with_chain, without) in zip(answered, scored, strict=True)
    }
    return {i: tuple(gains.get((i, k), 0.0) for k in range(len(groups[i].completions))) for i in places}
