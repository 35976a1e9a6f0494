"""Sampled and graded completions; the one place where seeds are spent."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from expo_lite.errors import ConfigError
from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Completion, FinishReason, Group, Problem, SampleRequest, SamplingParams, Verdict
from expo_lite.settings.groups import ExplainWith, ExpoConfig
from expo_lite.tasks import Task

GRADING_THREADS = 4
"""Enough to keep the grader's two processes busy."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What one call sampled: a group for each problem, and attempts to explain for each problem to be explained."""

    groups: tuple[Group, ...]
    attempts: tuple[Group, ...]
    """Completions of explanation prompts, as groups: same shape, other prompt."""


def roll_out(
    policy: Policy,
    task: Task,
    *,
    problems: Sequence[Problem] = (),
    to_explain: Sequence[Problem] = (),
    group_size: int,
    n_explanations: int = 1,
    explain_with: ExplainWith = "answer",
    others: Sequence[Problem] = (),
    params: SamplingParams,
    explanation_params: SamplingParams | None = None,
    seed: int,
) -> Rollout:
    """Sample and grade `group_size` completions of each problem's plain prompt and, decoded in the same batches,
    `n_explanations` completions of the explanation prompt of each problem to explain.

    As a control, the explanation prompt can show the answer of one of the `others`, or be the plain prompt.
    With `explanation_params` of their own, explanations are decoded in a call of their own.
    """  # noqa: D205 (one sentence)
    requests = [SampleRequest(encode_question(policy.tokenizer, p), group_size) for p in problems]
    shown = [with_wrong_answer(p, others, seed) for p in to_explain] if explain_with == "wrong-answer" else to_explain
    explained = [
        encode_question(policy.tokenizer, p) if explain_with == "no-answer" else encode_explanation(policy.tokenizer, p)
        for p in shown
    ]
    to_sample = [SampleRequest(prompt, n_explanations) for prompt in explained]
    if explanation_params is None or explanation_params == params:
        sampled = policy.sample(requests + to_sample, params, seed=seed)
    else:
        sampled = [
            *(policy.sample(requests, params, seed=seed) if requests else ()),
            *(policy.sample(to_sample, explanation_params, seed=seed) if to_sample else ()),
        ]
    groups = grade_groups(task, [*problems, *to_explain], sampled)
    return Rollout(tuple(groups[: len(problems)]), tuple(groups[len(problems) :]))


def explanation_params(config: ExpoConfig, params: SamplingParams) -> SamplingParams:
    """How explanations are sampled where completions are sampled like this."""
    return dataclasses.replace(
        params,
        temperature=config.explanation_temperature or params.temperature,
        max_completion_tokens=config.max_explanation_tokens or params.max_completion_tokens,
    )


def with_wrong_answer(problem: Problem, others: Sequence[Problem], seed: int) -> Problem:
    """The problem with the answer of another one, of the same level where there is one; a function of its arguments.

    Raises:
        ConfigError: no other problem has another answer.
    """
    different = [other for other in others if other.answer != problem.answer]
    pool = [other.answer for other in different if other.level == problem.level] or [p.answer for p in different]
    if not pool:
        raise ConfigError("explain_with 'wrong-answer' needs problems with different answers, and there is only one.")
    rng = random.Random(stream_seed(seed, "wrong answer", problem.problem_id))  # noqa: S311
    return dataclasses.replace(problem, answer=rng.choice(pool))


def grade_groups(task: Task, problems: Sequence[Problem], sampled: Sequence[tuple[Completion, ...]]) -> list[Group]:
    """Grade every completion; the grader's own time limit bounds each."""
    pairs = [(problem, completion) for problem, row in zip(problems, sampled, strict=True) for completion in row]

    def verdict(pair: tuple[Problem, Completion]) -> Verdict:
        problem, completion = pair
        return task.grade(problem, completion.text, truncated=completion.finish_reason is FinishReason.LENGTH)

    with ThreadPoolExecutor(GRADING_THREADS) as pool:
        verdicts = iter(list(pool.map(verdict, pairs)))
    return [
        Group(problem, tuple(row), tuple(next(verdicts) for _ in row))
        for problem, row in zip(problems, sampled, strict=True)
    ]


def stream_seed(seed: int, *purpose: str | int) -> int:
    """The seed of one purpose's own random stream: the same run seed and purpose always give the same one."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def draw(problems: Sequence[Problem], n: int, *, step: int, seed: int) -> list[Problem]:
    """The `n` problems of a step (counted from 0); each epoch is one shuffled pass over all."""
    drawn = []
    for position in range(step * n, (step + 1) * n):
        epoch, place = divmod(position, len(problems))
        order = list(range(len(problems)))
        random.Random(stream_seed(seed, "epoch", epoch)).shuffle(order)  # noqa: S311
        drawn.append(problems[order[place]])
    return drawn
