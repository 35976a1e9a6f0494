r"""Self-explanations: written after question and answer, judged here, trained on after the question alone.

`Explanation.completion.prompt_ids` shows the answer; `Explanation.prompt_ids` does not, and nothing but that one ever
reaches the loss. `target_ids` are the sampled tokens as they are; only with the filter "none", the paper's literal
form, is the right answer put in place of the explanation's own. The controls, which are shown a wrong answer or none,
are always taken as they are.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_question
from expo_lite.records import Completion, Explanation, FinishReason, Group, Problem, Verdict
from expo_lite.settings.groups import ExpoConfig
from expo_lite.step.chain_text import before_answer, up_to_answer

_BOX = "\\boxed{"


Rederive = Callable[[Sequence[tuple[Problem, str]]], list[bool]]
"""Of each (problem, chain text), whether the policy reaches the answer from the chain without it (step/rederive.py)."""


def judge_attempts(
    policy: Policy, attempts: Sequence[Group], config: ExpoConfig, *, token_budget: int, rederive: Rederive
) -> list[list[Explanation]]:
    """Every attempt of every problem as an explanation, accepted or refused with the reason; what is cheap comes first.

    `judge_within` (step/rederive.py) calls it within limits of memory, and knows how to re-derive.
    """
    filters = config.explanation_filter
    candidates = [
        _candidate(policy, attempt.problem, completion, verdict, config)
        for attempt in attempts
        for completion, verdict in zip(attempt.completions, attempt.verdicts, strict=True)
    ]
    if "reliance" in filters:
        still = _accepted(candidates)
        measured = reliances(policy, [candidates[i] for i in still], token_budget=token_budget)
        for i, reliance in zip(still, measured, strict=True):
            candidates[i] = dataclasses.replace(candidates[i], reliance_nats=reliance)
            if reliance > config.max_reliance:
                candidates[i] = _refused(candidates[i], "reliance")
    if "lift" in filters or config.explanations_per_problem > 1:
        still = _accepted(candidates)
        chains = [(candidates[i].problem, candidates[i].completion.text) for i in still]
        for i, lift in zip(still, answer_lifts(policy, chains, token_budget=token_budget), strict=True):
            candidates[i] = _with_lift(candidates[i], lift, config)
    if "re-derivation" in filters:
        still = _accepted(candidates)
        reached = rederive([(candidates[i].problem, candidates[i].completion.text) for i in still])
        for i, again in zip(still, reached, strict=True):
            if not again:
                candidates[i] = _refused(candidates[i], "not_rederived")
    remaining = iter(candidates)
    return [[next(remaining) for _ in attempt.completions] for attempt in attempts]


def _accepted(candidates: Sequence[Explanation]) -> list[int]:
    return [i for i, explanation in enumerate(candidates) if explanation.accepted]


def _refused(explanation: Explanation, reason: str) -> Explanation:
    return dataclasses.replace(explanation, accepted=False, reason=reason)


def _candidate(
    policy: Policy, problem: Problem, completion: Completion, verdict: Verdict, config: ExpoConfig
) -> Explanation:
    filters = config.explanation_filter
    target_ids, accepted, reason = completion.token_ids, True, "accepted"
    if "none" in filters and config.explain_with != "answer":
        pass  # a control is trained on as it is, with whatever answer it gives
    elif "none" in filters:
        target_ids = encode_target(policy, up_to_answer(completion.text) + boxed(problem.answer))
    elif completion.finish_reason is FinishReason.LENGTH:
        accepted, reason = False, "truncated"
    elif not verdict.correct:
        accepted, reason = False, verdict.reason
    return Explanation(
        problem, completion, encode_question(policy.tokenizer, problem), target_ids, verdict, accepted, reason
    )


def _with_lift(explanation: Explanation, lift: float, config: ExpoConfig) -> Explanation:
    if "lift" in config.explanation_filter and lift <= 0:
        return _refused(dataclasses.replace(explanation, lift_nats=lift), "no_lift")
    return dataclasses.replace(explanation, lift_nats=lift)


def best(candidates: Sequence[Explanation]) -> Explanation:
    """Of several accepted attempts the one with the highest answer lift; of several refused ones the first."""
    return max(candidates, key=lambda e: (e.accepted, e.lift_nats if e.lift_nats is not None else 0.0))


def answer_lifts(policy: Policy, chains: Sequence[tuple[Problem, str]], *, token_budget: int) -> list[float]:
    r"""Log pi(a*|q, c) - log pi(a*|q) of each (problem, chain text), in nats.

    Both are the log-probability of the right answer's tokens and the closing brace after `\boxed{`, which is given: how
    to present an answer is not what a chain is there for. The chain is cut before its own answer (`before_answer`).
    """
    rows = []
    for problem, text in chains:
        prompt_ids = encode_question(policy.tokenizer, problem)
        answer_ids = encode_text(policy, problem.answer + "}")
        for before in (before_answer(text), ""):
            rows.append(Row(prompt_ids + encode_text(policy, before + _BOX), answer_ids))
    sums = [float(s.sum()) for s in score_rows(policy, rows, temperature=1.0, token_budget=token_budget)]
    return [with_chain - without for with_chain, without in zip(sums[::2], sums[1::2], strict=True)]


def reliances(policy: Policy, explanations: Sequence[Explanation], *, token_budget: int) -> list[float]:
    """How far each chain relies on what its prompt showed: log pi(c|q, a*) - log pi(c|q), nats a token."""
    rows = [Row(prompt, e.target_ids) for e in explanations for prompt in (e.completion.prompt_ids, e.prompt_ids)]
    means = [float(s.mean()) for s in score_rows(policy, rows, temperature=1.0, token_budget=token_budget)]
    return [shown - plain for shown, plain in zip(means[::2], means[1::2], strict=True)]


def boxed(answer: str) -> str:
    """An answer as the prompts ask for it."""
    return f"{_BOX}{answer}}}"


def encode_text(policy: Policy, text: str) -> tuple[int, ...]:
    """Token ids of a piece of an assistant's turn."""
    return tuple(policy.tokenizer.encode(text, add_special_tokens=False))


def encode_target(policy: Policy, text: str) -> tuple[int, ...]:
    """Token ids of a whole assistant's turn, with the token that ends it."""
    return (*encode_text(policy, text), policy.end_id)


def refusals(explanations: Iterable[Explanation]) -> Counter[str]:
    """How often each reason for refusing an explanation came up."""
    return Counter(explanation.reason for explanation in explanations if not explanation.accepted)
