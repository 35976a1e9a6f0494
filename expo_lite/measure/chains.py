"""Figures of single chains: how probable they are under the plain prompt, and how useful for the answer.

Own chains, explanations and expert chains are compared on the same problems: negative log-likelihood a token (nats),
and the answer lift log pi(a*|q, c) - log pi(a*|q).
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """The figures of one chain: negative log-likelihood (nats a token) and answer lift (nats)."""

    problem: Problem
    kind: str
    nll: float
    lift: float
    text: str = ""
    reliance: float | None = None
    """By how many nats a token the answer shown makes the chain more probable, where it was measured."""


def chain_figures(
    policy: Policy,
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    *,
    token_budget: int,
    controls: Sequence[Explanation] = (),
    whole: bool = False,
) -> list[ChainFigure]:
    """Score one own chain of each problem, accepted explanations, expert chains, and controls.

    `whole` adds refused explanations, and the reliance of every chain.
    """
    chains: list[tuple[Problem, str, str, Row, tuple[int, ...]]] = []

    def add(problem: Problem, kind: str, text: str, row: Row, shown: tuple[int, ...] | None = None) -> None:
        chains.append((problem, kind, text, row, shown or encode_explanation(policy.tokenizer, problem)))

    for e in (*controls, *(e for e in explanations if e.accepted or whole)):
        kind = CONTROL if e in controls else "explanation" if e.accepted else REFUSED
        add(e.problem, kind, e.completion.text, Row(e.prompt_ids, e.target_ids), e.completion.prompt_ids)
    for group in groups:
        sampled, expert = group.completions[0], group.problem.expert_chain
        add(group.problem, "own", sampled.text, Row(sampled.prompt_ids, sampled.token_ids))
        if expert:
            question = encode_question(policy.tokenizer, group.problem)
            add(group.problem, "expert", expert, Row(question, encode_target(policy, expert)))
    rows = [row for *_, row, _ in chains] + [Row(shown, row.completion_ids) for *_, row, shown in chains if whole]
    nats = [float(s.mean()) for s in score_rows(policy, rows, temperature=1.0, token_budget=token_budget)]
    lifts = answer_lifts(policy, [(problem, text) for problem, _, text, *_ in chains], token_budget=token_budget)
    return [
        ChainFigure(problem, kind, -nats[i], lifts[i], text, nats[len(chains) + i] - nats[i] if whole else None)
        for i, (problem, kind, text, *_) in enumerate(chains)
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
