"""Figures of single chains: how probable they are under the plain prompt, and how useful for the answer.

Own chains, explanations and expert chains are compared on the same problems: negative log-likelihood a token (nats),
and the answer lift log pi(a*|q, c) - log pi(a*|q).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from expo_lite.measure.verdict import CONTROL, KINDS, REFUSED
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Explanation, Group, Problem
from expo_lite.run.metrics import mean
from expo_lite.step.explain import answer_lifts, encode_target

LIFT_NAMES = {"own": "expo/answer_lift_own", "explanation": "expo/answer_lift", "expert": "expo/answer_lift_expert"}


@dataclass(frozen=True, slots=True)
class ChainFigure:
    """What one chain of one kind measured: negative log-likelihood (nats a token) and answer lift (nats)."""

    problem: Problem
    kind: str
    nll: float
    lift: float
    text: str = ""
    row: Row | None = None
    reliance: float | None = None
    """By how many nats a token an answer shown makes the chain more probable: the one it was written with."""


def chain_figures(
    policy: Policy,
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    *,
    token_budget: int,
    controls: Sequence[Explanation] = (),
    refused: bool = False,
) -> list[ChainFigure]:
    """One own chain a problem, explanations (those that were accepted, or all), expert chains, and controls."""
    chains: list[tuple[Problem, str, Row, str]] = []
    for e in controls:
        chains.append((e.problem, CONTROL, Row(e.prompt_ids, e.target_ids), e.completion.text))
    for group in groups:
        own = group.completions[0]
        chains.append((group.problem, "own", Row(own.prompt_ids, own.token_ids), own.text))
    for e in explanations:
        if e.accepted or refused:
            kind = "explanation" if e.accepted else REFUSED
            chains.append((e.problem, kind, Row(e.prompt_ids, e.target_ids), e.completion.text))
    for problem in (group.problem for group in groups):
        if text := problem.expert_chain:
            row = Row(encode_question(policy.tokenizer, problem), encode_target(policy, text))
            chains.append((problem, "expert", row, text))
    scored = score_rows(policy, [row for _, _, row, _ in chains], temperature=1.0, token_budget=token_budget)
    lifts = answer_lifts(policy, [(problem, text) for problem, _, _, text in chains], token_budget=token_budget)
    return [
        ChainFigure(problem, kind, -float(logprobs_T.mean()), lift, text, row)
        for (problem, kind, row, text), logprobs_T, lift in zip(chains, scored, lifts, strict=True)
    ]


def diagnose(
    policy: Policy, groups: Sequence[Group], explanations: Sequence[Explanation], *, limits: Limits
) -> dict[str, float]:
    """Mean NLL a token of own, explanation and expert chains under the plain prompt, and mean lifts, as metrics.

    A kind that is absent has no entry.
    """
    figures = limits.updating(
        lambda: chain_figures(policy, groups, explanations, token_budget=limits.micro_batch_tokens)
    )
    metrics = {}
    for kind in KINDS:
        if own := [figure for figure in figures if figure.kind == kind]:
            metrics[f"expo/nll_{kind}"] = mean(figure.nll for figure in own)
            metrics[LIFT_NAMES[kind]] = mean(figure.lift for figure in own)
    return metrics


def with_reliance(
    policy: Policy, figures: Sequence[ChainFigure], explained: Sequence[Explanation], *, token_budget: int
) -> list[ChainFigure]:
    """The figures with how much more probable each chain is after the prompt that shows an answer."""
    shown = {(e.problem.problem_id, e.completion.text): e.completion.prompt_ids for e in explained}
    rows = [
        Row(
            shown.get((f.problem.problem_id, f.text)) or encode_explanation(policy.tokenizer, f.problem),
            f.row.completion_ids if f.row else (),
        )
        for f in figures
    ]
    scored = score_rows(policy, rows, temperature=1.0, token_budget=token_budget)
    return [
        replace(f, reliance=float(logprobs_T.mean()) + f.nll) for f, logprobs_T in zip(figures, scored, strict=True)
    ]
