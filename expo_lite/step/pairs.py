"""Preference pairs: a chain to prefer and the policy's own wrong completion of the same plain prompt, for DPO.

A pair is made once: its reference log-probabilities, with the adapter off, go with it. Offline pairs are the initial
policy's for good; online ones are made anew by the updated policy once they are old enough.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from expo_lite.objectives import DpoTerms, dpo_terms
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import question_text
from expo_lite.records import FinishReason, Group, Pair
from expo_lite.settings.train import RunConfig


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with its log-probabilities under the policy as it is now (nats, summed over tokens)."""

    pair: Pair
    chosen_nats: float
    rejected_nats: float


def make_pairs(
    policy: Policy,
    groups: Sequence[Group],
    chosen: Mapping[str, tuple[int, ...]],
    *,
    temperature: float,
    token_budget: int,
) -> tuple[list[Pair], dict[str, float]]:
    """A pair for each group that has a wrong completion and a chain in `chosen`, by problem.

    The first wrong completion is taken that the limit has not cut off; if it has cut off all of them, the first.

    Returns:
        The pairs, and how many groups gave none and why, as metrics.
    """
    found, n_right, n_without_chain = [], 0, 0
    for group in groups:
        wrong = [c for c, verdict in zip(group.completions, group.verdicts, strict=True) if not verdict.correct]
        wrong.sort(key=lambda c: c.finish_reason is FinishReason.LENGTH)  # one cut off by the limit only if all are
        rejected, target = next(iter(wrong), None), chosen.get(group.problem.problem_id)
        if rejected is None:
            n_right += 1
        elif target is None:
            n_without_chain += 1
        else:
            found.append((group.problem, rejected.prompt_ids, target, rejected.token_ids))
    with policy.reference():
        triples = [(prompt, chain, wrong) for _, prompt, chain, wrong in found]
        nats = _nats(policy, triples, temperature, token_budget)
    pairs = [Pair(*parts, *reference) for parts, reference in zip(found, nats, strict=True)]
    return pairs, {"pairs/new": len(pairs), "pairs/none_wrong": n_right, "pairs/no_chosen": n_without_chain}


def score_pairs(
    policy: Policy, pairs: Sequence[Pair], *, temperature: float, token_budget: int
) -> tuple[ScoredPair, ...]:
    """The pairs as the policy sees them now."""
    triples = [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    nats = _nats(policy, triples, temperature, token_budget)
    return tuple(ScoredPair(pair, *both) for pair, both in zip(pairs, nats, strict=True))


def _nats(
    policy: Policy, triples: Iterable[tuple[tuple[int, ...], ...]], temperature: float, token_budget: int
) -> list[tuple[float, float]]:
    rows = [Row(prompt, completion) for prompt, *both in triples for completion in both]
    scored = score_rows(policy, rows, temperature=temperature, token_budget=token_budget)
    sums = [float(logprobs_T.sum()) for logprobs_T in scored]
    return list(zip(sums[::2], sums[1::2], strict=True))


def dpo_terms_of(scored: Sequence[ScoredPair], config: RunConfig) -> DpoTerms:
    """The loss and the weights of these pairs."""
    columns = [(s.chosen_nats, s.rejected_nats, s.pair.ref_chosen_nats, s.pair.ref_rejected_nats) for s in scored]
    return dpo_terms(*torch.tensor(columns, dtype=torch.float64).T, dpo_beta=config.dpo.dpo_beta)


def dpo_metrics(scored: Sequence[ScoredPair], config: RunConfig) -> dict[str, float]:
    """The loss before this step's update, and rewards and margins by TRL's names; nothing where there is no pair."""
    if not scored:
        return {}
    terms = dpo_terms_of(scored, config)
    margins_K = terms.chosen_rewards_K - terms.rejected_rewards_K
    return {
        "dpo_loss": float(terms.loss),
        "rewards/chosen": float(terms.chosen_rewards_K.mean()),
        "rewards/rejected": float(terms.rejected_rewards_K.mean()),
        "rewards/accuracies": float((margins_K > 0).double().mean()),
        "rewards/margins": float(margins_K.mean()),
        "logps/chosen": sum(s.chosen_nats for s in scored) / len(scored),
        "logps/rejected": sum(s.rejected_nats for s in scored) / len(scored),
    }


def pair_rows(policy: Policy, pairs: Iterable[Pair], *, step: int) -> list[dict[str, Any]]:
    """What pairs.jsonl keeps: prompt, chosen and rejected as conversations, which TRL's DPOTrainer and others take."""

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def text(token_ids: tuple[int, ...]) -> str:
        decoded: str = policy.tokenizer.decode(token_ids, skip_special_tokens=True)
        return decoded

    return [
        {
            "step": step,
            "problem_id": pair.problem.problem_id,
            "prompt": turn("user", question_text(pair.problem)),
            "chosen": turn("assistant", text(pair.chosen_ids)),
            "rejected": turn("assistant", text(pair.rejected_ids)),
        }
        for pair in pairs
    ]
