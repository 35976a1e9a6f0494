"""Preference pairs for DPO: a chain, and the policy's own wrong completion of the same plain prompt.

A pair keeps its reference log-probabilities, which are measured once with the adapter off. The initial policy makes
offline pairs, once; the updated policy makes online pairs, anew when they are too old.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from expo_lite.objectives import DpoTerms, dpo_terms
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import Turns, question_turns
from expo_lite.records import FinishReason, Group, Pair
from expo_lite.run.metrics import mean


def make_pairs(
    policy: Policy,
    groups: Sequence[Group],
    chosen: Mapping[str, tuple[int, ...]],
    *,
    temperature: float,
    token_budget: int,
) -> tuple[list[Pair], dict[str, float]]:
    """Make a pair for each group that has a wrong completion and a chain in `chosen`, by problem.

    It takes the first wrong completion that the limit has not cut off; if all are cut off, the first.

    Returns:
        The pairs, and how many groups gave no pair and why, as metrics.
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
    rows = [Row(prompt, completion) for _, prompt, *both in found for completion in both]
    with policy.reference():
        scored = score_rows(policy, rows, temperature=temperature, token_budget=token_budget)
    nats = [float(logprobs_T.sum()) for logprobs_T in scored]
    pairs = [Pair(*parts, *both) for parts, *both in zip(found, nats[::2], nats[1::2], strict=True)]
    return pairs, {"pairs/new": len(pairs), "pairs/none_wrong": n_right, "pairs/no_chosen": n_without_chain}


def _sides(rows: Sequence[Row], nats: Sequence[torch.Tensor], *, chosen: bool) -> tuple[torch.Tensor, ...]:
    """One side of every pair, in their order: log-probabilities of its completion, those of the reference, weights."""
    sides = [(row.side, own) for row, own in zip(rows, nats, strict=True) if row.side and row.side.chosen is chosen]
    sides.sort(key=lambda one: one[0].pair)
    about_K2 = torch.tensor([(side.ref_nats, side.weight) for side, _ in sides], device=nats[0].device)
    return torch.stack([own for _, own in sides]), *about_K2.unbind(1)


def preferences(rows: Sequence[Row], nats: Sequence[torch.Tensor], *, dpo_beta: float) -> DpoTerms:
    """The DPO loss of the pairs among these rows, of which there is at least one.

    Args:
        rows: both rows of each pair are there.
        nats: the log-probability of each row's completion, a number.
        dpo_beta: as in `dpo_terms`.
    """
    chosen_K, ref_chosen_K, weights_K = _sides(rows, nats, chosen=True)
    rejected_K, ref_rejected_K, _ = _sides(rows, nats, chosen=False)
    return dpo_terms(chosen_K, rejected_K, ref_chosen_K, ref_rejected_K, weights_K, dpo_beta=dpo_beta)


def dpo_metrics(rows: Sequence[Row], nats: Sequence[torch.Tensor], *, dpo_beta: float) -> dict[str, float]:
    """The loss of the pairs among these rows, and rewards and margins by TRL's names."""
    terms = preferences(rows, nats, dpo_beta=dpo_beta)
    margins_K = terms.chosen_rewards_K - terms.rejected_rewards_K
    return {
        "dpo_loss": float(terms.loss),
        "rewards/chosen": float(terms.chosen_rewards_K.mean()),
        "rewards/rejected": float(terms.rejected_rewards_K.mean()),
        "rewards/accuracies": float((margins_K > 0).float().mean()),
        "rewards/margins": float(margins_K.mean()),
        "logps/chosen": mean(_sides(rows, nats, chosen=True)[0].tolist()),
        "logps/rejected": mean(_sides(rows, nats, chosen=False)[0].tolist()),
    }


def pair_rows(policy: Policy, pairs: Iterable[Pair], *, step: int) -> list[dict[str, Any]]:
    """The rows of pairs.jsonl: prompt, chosen and rejected as conversations, as TRL's DPOTrainer takes them."""

    def answer(token_ids: tuple[int, ...]) -> Turns:
        return [{"role": "assistant", "content": policy.tokenizer.decode(token_ids, skip_special_tokens=True)}]

    return [
        {
            "step": step,
            "problem_id": pair.problem.problem_id,
            "prompt": question_turns(pair.problem),
            "chosen": answer(pair.chosen_ids),
            "rejected": answer(pair.rejected_ids),
        }
        for pair in pairs
    ]
