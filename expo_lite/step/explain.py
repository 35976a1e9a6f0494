r"""Self-explanations: gate, sampling, filters and choice.

An explanation is written after question and answer, and trained on after the question alone.
`Explanation.completion.prompt_ids` shows the answer, `Explanation.prompt_ids` does not, and only the latter reaches the
loss. `target_ids` are the sampled tokens as they are; only with the filter "none", the paper's literal form, does the
right answer replace the explanation's own. Controls, which are shown a wrong answer or none, are taken as they are.

A prompt that asks for an outline between <outline> and </outline>, as `--explanation-prompt skeleton` does, gets chains
written from an outline without the answer: Structural Skeleton-guided Reasoning (arXiv 2602.14469; `SSR_PROMPT` in
`scripts/rcot_generation/rcot_prompt.py` of its code). As there both are one reply, and the outline is no part of what
is trained on. Where this leaves it: steps have no tags, an outline with the answer is refused in code, and the chain
ends with the answer, which the filter reads.
"""

import random
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from expo_lite.errors import ConfigError
from expo_lite.grading.arithmetic import check_arithmetic
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import OUTLINE_END, asks_outline, chain_text, encode_question, encode_turns, shown_turns
from expo_lite.records import (
    Completion,
    Explanation,
    FinishReason,
    Group,
    GroupKind,
    Problem,
    SampleRequest,
    SamplingParams,
    Verdict,
)
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.methods import METHODS
from expo_lite.step.chain_text import before_answer, shows_answer, up_to_answer
from expo_lite.step.rollout import grade_groups, sample, stream_seed
from expo_lite.step.run import Run
from expo_lite.tasks import Task
from expo_lite.tasks.base import ChecksSteps, steps_right

_BOX = "\\boxed{"
ONE_EACH = ExpoConfig()
"""One explanation a problem, sampled as completions are."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Groups of completions of the plain prompt, and attempts: groups of completions of the explanation prompt."""

    groups: tuple[Group, ...]
    attempts: tuple[Group, ...]


# The gate


def sample_groups(run: Run, problems: Sequence[Problem]) -> tuple[list[Group], list[Explanation], list[Explanation]]:
    """Sample a step's groups and, where the method wants them, explanations of the problems that pass the gate.

    Returns:
        The groups; explanations, those kept that are young enough and the best new one of each problem; all new ones.
    """
    config = run.config
    wants = config.chain_source == "explanation"
    only_failed = METHODS[config.method].gate_is_fixed or config.explanation.explain == "all-wrong"
    kept = {p.problem_id: e for p in problems if wants and (e := run.explanations.get(p.problem_id, step=run.step))}
    missing = [p for p in problems if wants and p.problem_id not in kept]
    rolled = _roll_out(run, "rollout", problems, [] if only_failed else missing)
    groups, attempts = list(rolled.groups), rolled.attempts
    if wants and only_failed:
        problems = [group.problem for group in groups if group.kind is GroupKind.ALL_WRONG]
        attempts = _roll_out(run, "explanation", [], [p for p in problems if p.problem_id not in kept]).attempts
    judged = judge(run.policy, run.task, attempts, config.explanation, limits=run.limits)
    new = [best(candidates) for candidates in judged]
    run.explanations.put([e for e in new if e.accepted], step=run.step)  # a refused one is tried again the next time
    again = [kept[p.problem_id] for p in problems if p.problem_id in kept]  # one that is drawn twice counts twice
    return groups, [*again, *new], [e for candidates in judged for e in candidates]


def _roll_out(run: Run, stream: str, problems: Sequence[Problem], to_explain: Sequence[Problem]) -> Rollout:
    """Sample with the run's settings and the random stream of this step."""
    return roll_out(
        run.policy,
        run.task,
        problems=problems,
        to_explain=to_explain,
        group_size=run.config.group_size,
        explaining=run.config.explanation,
        others=run.problems,
        params=run.params,
        limits=run.limits,
        seed=stream_seed(run.config.seed, stream, run.step),
    )


# Sampling


def roll_out(
    policy: Policy,
    task: Task,
    *,
    problems: Sequence[Problem] = (),
    to_explain: Sequence[Problem] = (),
    group_size: int = 1,
    explaining: ExpoConfig = ONE_EACH,
    others: Sequence[Problem] = (),
    params: SamplingParams,
    limits: Limits,
    seed: int,
) -> Rollout:
    """Sample and grade `group_size` completions of each problem, and explanations of each problem to explain.

    Both are decoded in the same batches, unless explanations have their own temperature. A control is shown the answer
    of one of the `others`, or none.
    """
    questions = [SampleRequest(encode_question(policy.tokenizer, p), group_size) for p in problems]
    is_wrong = explaining.explain_with == "wrong-answer"
    shown = [with_wrong_answer(p, others, seed) if is_wrong else p for p in to_explain]
    prompts = [encode_turns(policy.tokenizer, shown_turns(p, explaining.explain_with)) for p in shown]
    requests = [SampleRequest(prompt, explaining.explanations_per_problem) for prompt in prompts]
    temperature = explaining.explanation_temperature or params.temperature
    if temperature == params.temperature:
        sampled = sample(policy, questions + requests, params, limits=limits, seed=seed)
    else:
        sampled = sample(policy, questions, params, limits=limits, seed=seed)
        own = stream_seed(seed, "explanations") if questions else seed
        sampled += sample(policy, requests, replace(params, temperature=temperature), limits=limits, seed=own)
    groups = grade_groups(task, [*problems, *to_explain], sampled)
    return Rollout(tuple(groups[: len(problems)]), tuple(groups[len(problems) :]))


def with_wrong_answer(problem: Problem, others: Sequence[Problem], seed: int) -> Problem:
    """The problem with the answer of another one, of the same level if possible; a function of its arguments.

    Raises:
        ConfigError: no other problem has another answer.
    """
    different = [other for other in others if other.answer != problem.answer]
    pool = [other.answer for other in different if other.level == problem.level] or [p.answer for p in different]
    if not pool:
        raise ConfigError("explain_with 'wrong-answer' needs problems with different answers, and there is only one.")
    rng = random.Random(stream_seed(seed, "wrong answer", problem.problem_id))  # noqa: S311
    return replace(problem, answer=rng.choice(pool))


# Filters


def judge(
    policy: Policy, task: Task, attempts: Sequence[Group], config: ExpoConfig, *, limits: Limits
) -> list[list[Explanation]]:
    """Accept or refuse every attempt at every problem, with the reason; cheap filters come first.

    Every filter but none also refuses a wrong final answer.
    """
    filters = config.explanation_filter
    candidates = [
        _candidate(policy, task, attempt.problem, completion, verdict, config)
        for attempt in attempts
        for completion, verdict in zip(attempt.completions, attempt.verdicts, strict=True)
    ]
    if "reliance" in filters:
        relied = _accepted(candidates)
        nats = limits.scored(reliances, policy, [candidates[i] for i in relied])
        for i, reliance in zip(relied, nats, strict=True):
            explanation = replace(candidates[i], reliance_nats=reliance)
            candidates[i] = _kept_if(reliance <= config.max_reliance, explanation, "reliance")
    if "lift" in filters or config.explanations_per_problem > 1:
        lifted = _accepted(candidates)
        chains = [(candidates[i].problem, candidates[i].completion.text) for i in lifted]
        nats = limits.scored(answer_lifts, policy, chains)
        for i, lift in zip(lifted, nats, strict=True):
            explanation = replace(candidates[i], lift_nats=lift)
            candidates[i] = _kept_if(lift > 0 or "lift" not in filters, explanation, "no_lift")
    remaining = iter(candidates)
    return [[next(remaining) for _ in attempt.completions] for attempt in attempts]


def _candidate(
    policy: Policy, task: Task, problem: Problem, completion: Completion, verdict: Verdict, config: ExpoConfig
) -> Explanation:
    asked = asks_outline(problem) and config.explain_with != "no-answer"
    outline_ids: tuple[int, ...] = ()
    if asked:
        completion, outline_ids = _without_outline(policy, completion)
    if verdict.correct and (asked or verdict.valid is None):  # of the chain alone, without its outline
        verdict = replace(verdict, valid=steps_right(task, problem, completion.text))
    outline = policy.tokenizer.decode(outline_ids) if outline_ids else ""
    target_ids, accepted, reason = completion.token_ids, True, "accepted"
    if "none" in config.explanation_filter:
        if config.explain_with == "answer":
            target_ids = encode_target(policy, f"{up_to_answer(completion.text)}{_BOX}{problem.answer}}}")
    elif completion.finish_reason is FinishReason.LENGTH:
        accepted, reason = False, "truncated"
    elif not verdict.correct:
        accepted, reason = False, verdict.reason
    elif fault := fault_of_steps(config.explanation_filter, task, problem, completion.text, verdict.valid):
        accepted, reason = False, fault
    elif asked and (not outline or shows_answer(task, problem, outline)):
        accepted, reason = False, "outline_shows_answer" if outline else "no_outline"
    prompt_ids = encode_question(policy.tokenizer, problem)
    return Explanation(
        problem, completion, prompt_ids, target_ids, verdict, accepted, reason, outline_ids=outline_ids, outline=outline
    )


def fault_of_steps(filters: Collection[str], task: Task, problem: Problem, chain: str, valid: bool | None) -> str:
    """The reason for which filters refuse the steps of a chain that ends in the right answer; empty if they do not.

    Args:
        filters: steps refuses all that is not known to be right, and arithmetic refuses a wrong equation.
        task: the one whose problem it is.
        problem: the problem that the chain solves.
        chain: its text, without an outline.
        valid: the result of `steps_right`, which overrules the equations where it is True.
    """
    if valid:
        return ""
    if "steps" in filters:
        return "unread_steps" if valid is None else "wrong_step"
    if "arithmetic" in filters and isinstance(task, ChecksSteps):
        valid = check_arithmetic(problem.question, problem.answer, chain)  # in place of the task's own check
    return "wrong_step" if "arithmetic" in filters and valid is False else ""


def _without_outline(policy: Policy, completion: Completion) -> tuple[Completion, tuple[int, ...]]:
    """Split a reply into the chain, as sampled after the prompt and the outline, and the outline; () if it has none.

    Space between them goes with the outline: after the plain prompt nothing would stand before it.
    """
    decode, ids = policy.tokenizer.decode, completion.token_ids
    n = bisect_left(range(len(ids) + 1), 1, key=lambda n: decode(ids[:n]).partition(OUTLINE_END)[2].strip() > "") - 1
    if n == len(ids):
        return completion, ()
    chain = decode(ids[n:], skip_special_tokens=True)
    prompt_ids, logprobs = completion.prompt_ids + ids[:n], completion.logprobs[n:]
    return replace(completion, prompt_ids=prompt_ids, token_ids=ids[n:], logprobs=logprobs, text=chain), ids[:n]


def _accepted(candidates: Sequence[Explanation]) -> list[int]:
    return [i for i, explanation in enumerate(candidates) if explanation.accepted]


def _kept_if(passed: bool, explanation: Explanation, reason: str) -> Explanation:
    return explanation if passed else replace(explanation, accepted=False, reason=reason)


def answer_lifts(policy: Policy, chains: Sequence[tuple[Problem, str]], *, token_budget: int) -> list[float]:
    """Log pi(a*|q, c) - log pi(a*|q) of each (problem, chain text), in nats (`answer_logprobs`)."""
    scored = answer_logprobs(policy, chains, token_budget=token_budget)
    return [float(with_chain.sum()) - float(without.sum()) for with_chain, without in scored]


def answer_logprobs(
    policy: Policy, chains: Sequence[tuple[Problem, str]], *, token_budget: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    r"""Log-probabilities of the right answer's tokens, nats, with each (problem, chain text) before them and without.

    The tokens are those of the answer and the closing brace after `\boxed{`, which is given: how to present an answer
    is not what a chain is there for. The chain is cut before its own answer (`before_answer`).
    """
    rows = []
    for problem, text in chains:
        prompt_ids = encode_question(policy.tokenizer, problem)
        answer_ids = encode_text(policy, problem.answer + "}")
        for before in (before_answer(text), ""):
            rows.append(Row(prompt_ids + encode_text(policy, before + _BOX), answer_ids))
    scored = score_once(policy, rows, token_budget=token_budget)  # the chains of a problem share the row without one
    return list(zip(scored[::2], scored[1::2], strict=True))


def score_once(policy: Policy, rows: Sequence[Row], *, token_budget: int) -> list[torch.Tensor]:
    """Log-probabilities of each row's completion tokens at temperature 1, as `score_rows`; equal rows count once."""
    different = list(dict.fromkeys(rows))
    scored = score_rows(policy, different, temperature=1.0, token_budget=token_budget)
    by_row = dict(zip(different, scored, strict=True))
    return [by_row[row] for row in rows]


def reliances(policy: Policy, explanations: Sequence[Explanation], *, token_budget: int) -> list[float]:
    """Measure each chain's reliance on the answer that its prompt showed: log pi(c|q, a*) - log pi(c|q), nats a token.

    An outline stands before the chain in both.
    """
    prompts = [(e.completion.prompt_ids, e.prompt_ids + e.outline_ids) for e in explanations]
    rows = [Row(prompt, e.target_ids) for e, both in zip(explanations, prompts, strict=True) for prompt in both]
    means = [float(s.mean()) for s in score_rows(policy, rows, temperature=1.0, token_budget=token_budget)]
    return [shown - plain for shown, plain in zip(means[::2], means[1::2], strict=True)]


def encode_text(policy: Policy, text: str) -> tuple[int, ...]:
    """Token ids of a piece of an assistant's turn."""
    return tuple(policy.tokenizer.encode(text, add_special_tokens=False))


def encode_target(policy: Policy, text: str) -> tuple[int, ...]:
    """Token ids of a whole assistant's turn, with the token that ends it."""
    return (*encode_text(policy, text), policy.end_id)


def encode_chain(policy: Policy, problem: Problem) -> tuple[int, ...]:
    """Token ids of the problem's expert chain; raises ConfigError as `chain_text` does."""
    return encode_target(policy, chain_text(policy.tokenizer, problem))


# The choice


def best(candidates: Sequence[Explanation]) -> Explanation:
    """The accepted attempt with the highest answer lift; if all are refused, the first."""
    return max(candidates, key=lambda e: (e.accepted, e.lift_nats if e.lift_nats is not None else 0.0))
