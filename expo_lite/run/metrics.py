"""The metrics of a step's groups and explanations, and the rows of samples.jsonl; free of torch.

`settings/metrics.py` has the labels and units of all metrics.
"""

from collections.abc import Iterable, Sequence
from statistics import stdev
from typing import Any

from expo_lite.records import Completion, Explanation, FinishReason, Group, GroupKind, Problem, Verdict, level_order
from expo_lite.settings.metrics import LEVEL_REWARD


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, kinds of groups, lengths, and the reasons of verdicts, of one step's groups."""
    rewards = [reward for group in groups for reward in group.rewards]
    completions = [completion for group in groups for completion in group.completions]
    kinds = [group.kind for group in groups]
    lengths = [len(completion.token_ids) for completion in completions]
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    n_tokens = sum(lengths)
    metrics = {
        "reward": mean(rewards),
        "reward_std": mean(stdev(group.rewards) for group in groups),
        "frac_reward_zero_std": mean(group.is_dead for group in groups),
        "frac_all_wrong": mean(kind is GroupKind.ALL_WRONG for kind in kinds),
        "frac_mixed": mean(kind is GroupKind.MIXED for kind in kinds),
        "frac_all_correct": mean(kind is GroupKind.ALL_RIGHT for kind in kinds),
        "completions/mean_length": mean(lengths),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": mean(c.finish_reason is FinishReason.LENGTH for c in completions),
        "sampling/nll": -sum(sum(c.logprobs) for c in completions) / max(n_tokens, 1),
    }
    for reason in sorted({verdict.reason for verdict in verdicts}):
        metrics[f"verdicts/{reason}"] = mean(verdict.reason == reason for verdict in verdicts)
    for level in sorted({group.problem.level for group in groups if group.problem.level is not None}, key=level_order):
        metrics[f"{LEVEL_REWARD}{level}"] = mean(r for g in groups if g.problem.level == level for r in g.rewards)
    return metrics


def explanation_metrics(explanations: Sequence[Explanation]) -> dict[str, float]:
    """Acceptance and the reasons for refusals, of one step's new explanations."""
    metrics = {"expo/explanation_accept_rate": mean(explanation.accepted for explanation in explanations)}
    if accepted := [e.verdict.valid for e in explanations if e.accepted]:
        metrics["expo/explanation_checked_rate"] = mean(valid is not None for valid in accepted)
    if checked := [valid for valid in accepted if valid is not None]:
        metrics["expo/explanation_valid_rate"] = mean(checked)
    for reason in sorted({e.reason for e in explanations if not e.accepted}):
        metrics[f"expo/refused/{reason}"] = mean(e.reason == reason for e in explanations)
    return metrics


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; 0 where there are no values."""
    collected = list(values)
    return sum(collected) / len(collected) if collected else 0.0


def sample_rows(
    groups: Iterable[Group], explanations: Sequence[Explanation], *, step: int, attempts: Sequence[Explanation] = ()
) -> list[dict[str, Any]]:
    """The rows of samples.jsonl: every completion and explanation with its problem, verdict and reason.

    Of several `attempts` at one problem all are kept; `used` marks the accepted one among the `explanations`.
    """
    rows = []
    for group in groups:
        for completion, verdict in zip(group.completions, group.verdicts, strict=True):
            about = {"step": step, "kind": "rollout", "reward": verdict.reward}
            rows.append(about | sample_row(group.problem, completion, verdict))
    used = {id(explanation) for explanation in explanations if explanation.accepted}
    new = {id(attempt) for attempt in attempts}
    for each in [*(e for e in explanations if id(e) not in new), *attempts]:
        about = {
            "step": step,
            "kind": "explanation",
            "accepted": each.accepted,
            "refusal": None if each.accepted else each.reason,
            "lift_nats": each.lift_nats,
            "reliance_nats": each.reliance_nats,
            "used": id(each) in used,
        }
        about |= {"outline": each.outline} if each.outline else {}
        rows.append(about | sample_row(each.problem, each.completion, each.verdict))
    return rows


def sample_row(problem: Problem, completion: Completion, verdict: Verdict) -> dict[str, Any]:
    """The part that all rows of samples have: a problem, a completion and its verdict."""
    return {
        "problem_id": problem.problem_id,
        "level": problem.level,
        "prompt": problem.question,
        "completion": completion.text,
        "n_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason.value,
        "gold": problem.answer,
        **verdict.to_json(),
    }
