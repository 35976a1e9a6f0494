"""Draw problems, sample within memory, and grade; the place where the seeds of random streams are made."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.records import Completion, FinishReason, Group, Problem, SampleRequest, SamplingParams, Verdict
from expo_lite.settings.train import Draw
from expo_lite.tasks import Task
from expo_lite.tasks.base import ChecksSteps

LEAST_CHANCE = 0.05
GRADING_THREADS = 4
"""Enough to keep the grader's two processes busy."""


def sample(
    policy: Policy, requests: Sequence[SampleRequest], params: SamplingParams, *, limits: Limits, seed: int
) -> list[tuple[Completion, ...]]:
    """Sample completions, one tuple a request, with as many rows at a time as `limits` has."""
    if not requests:
        return []
    return limits.sampling(lambda: policy.sample(requests, replace(params, rows=limits.sampling_rows), seed=seed))


@dataclass(frozen=True, slots=True)
class Start:
    """The place where `n` completions begin: a prompt, and perhaps the first part of the reply."""

    prompt_ids: tuple[int, ...]
    n: int
    given_ids: tuple[int, ...] = ()


def sample_from(
    policy: Policy, starts: Sequence[Start], params: SamplingParams, *, limits: Limits, seed: int
) -> list[tuple[Completion, ...]]:
    """Sample what follows each start, one tuple a start; `Completion.text` is the whole reply.

    Completions get what the given part leaves of `max_completion_tokens`, rounded down to eighths, so that they stay in
    the context, and the room of one start depends on no other. Its random numbers depend on those with as much room.
    """
    most = params.max_completion_tokens
    eighth, left = max(most // 8, 1), [most - len(start.given_ids) for start in starts]
    rooms = [room if room == most else max(room // eighth * eighth, 1) for room in left]
    sampled: dict[int, tuple[Completion, ...]] = {}
    for room in sorted(set(rooms)):
        alike = [i for i, own in enumerate(rooms) if own == room]
        requests = [SampleRequest(starts[i].prompt_ids + starts[i].given_ids, starts[i].n) for i in alike]
        roomy = replace(params, max_completion_tokens=room)
        rows = sample(policy, requests, roomy, limits=limits, seed=stream_seed(seed, room))
        for i, row in zip(alike, rows, strict=True):
            given = policy.tokenizer.decode(starts[i].given_ids, skip_special_tokens=True)
            sampled[i] = tuple(replace(completion, text=given + completion.text) for completion in row)
    return [sampled[i] for i in range(len(starts))]


def grade_groups(task: Task, problems: Sequence[Problem], sampled: Sequence[tuple[Completion, ...]]) -> list[Group]:
    """Grade every completion, and the steps of right ones if the task can; the grader's time limit bounds each."""
    pairs = [(problem, completion) for problem, row in zip(problems, sampled, strict=True) for completion in row]

    def grade(pair: tuple[Problem, Completion]) -> Verdict:
        problem, completion = pair
        verdict = task.grade(problem, completion.text, truncated=completion.finish_reason is FinishReason.LENGTH)
        if verdict.correct and isinstance(task, ChecksSteps):
            verdict = replace(verdict, valid=task.check_steps(problem, completion.text))
        return verdict

    with ThreadPoolExecutor(GRADING_THREADS) as pool:
        verdicts = pool.map(grade, pairs)
        return [
            Group(problem, tuple(row), tuple(next(verdicts) for _ in row))
            for problem, row in zip(problems, sampled, strict=True)
        ]


def stream_seed(seed: int, *purpose: str | int) -> int:
    """The seed of one purpose's own random stream: the same run seed and purpose always give the same one."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def draw(
    problems: Sequence[Problem],
    n: int,
    *,
    step: int,
    seed: int,
    by: Draw = "new",
    rates: Mapping[str, float] | None = None,
) -> list[Problem]:
    """The `n` problems of a step (counted from 0).

    By "new", each epoch is one shuffled pass over all. By "hard" and "even" a problem's chance grows with its failures,
    or as its success rate, in `rates` (`remember`), comes near a half. Each has a chance; one without a rate the best.
    """
    drawn: list[Problem] = []
    if by != "new":
        rng = random.Random(stream_seed(seed, "draw", step))  # noqa: S311
        while len(drawn) < n:  # without replacement: the largest of u^(1 / chance)
            keys = {
                i: rng.random() ** (1 / _chance((rates or {}).get(p.problem_id), by)) for i, p in enumerate(problems)
            }
            drawn += [problems[i] for i in sorted(keys, key=lambda i: -keys[i])[: n - len(drawn)]]
        return drawn
    orders: dict[int, list[int]] = {}
    for position in range(step * n, (step + 1) * n):
        epoch, place = divmod(position, len(problems))
        if epoch not in orders:
            orders[epoch] = list(range(len(problems)))
            random.Random(stream_seed(seed, "epoch", epoch)).shuffle(orders[epoch])  # noqa: S311
        drawn.append(problems[orders[epoch][place]])
    return drawn


def _chance(rate: float | None, by: Draw) -> float:
    if rate is None:
        return 1.0
    return max(1.0 - rate if by == "hard" else 4.0 * rate * (1.0 - rate), LEAST_CHANCE)


def remember(rates: dict[str, float], groups: Sequence[Group]) -> None:
    """Keep each problem's success rate: half what it was, and half its newest group's share of right completions."""
    for group in groups:
        rate = sum(verdict.correct for verdict in group.verdicts) / len(group.verdicts)
        rates[group.problem.problem_id] = (rates.get(group.problem.problem_id, rate) + rate) / 2
