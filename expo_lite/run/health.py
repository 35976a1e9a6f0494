"""What is wrong with a run, told from its metrics alone: what, the figures that show it, and what to change.

`train` asks while it runs and at its end, and whoever looks at a finished run asks the same. The rules are pure
functions of the rows of metrics.jsonl; what a row lacks is not judged. The limits are rules of thumb, not measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from expo_lite.run.metrics import mean

Row = Mapping[str, Any]

STALLED_STEPS = 5
"""So many steps in a row without a gradient are no chance."""
RECENT = 20
"""Steps that most rules look at: the last ones."""
NEARLY_ALL = 0.9
MOST_TRUNCATED = 0.2
LEAST_ACCEPTED = 0.1
MOST_TIMEOUTS = 0.05
MOST_KL_NATS = 1.0
MOST_LOGP_DIFFERENCE_NATS = 0.1
WORST_FALL = 0.25
"""Of the mean reward, from its best `RECENT` steps to the last ones."""


class Finding(NamedTuple):
    """One thing that is wrong: a sentence, its figures, what to do, and the steps it was seen at, where known."""

    what: str
    figures: str
    remedy: str
    where: str = ""

    def __str__(self) -> str:
        """All of it in one line."""
        return f"{self.what} ({'; '.join(filter(None, (self.figures, self.where)))}). {self.remedy}"


def findings(rows: Sequence[Row]) -> list[Finding]:
    """All that the rules find in a run's metrics, the gravest first; an empty list where there is nothing."""
    rules = (no_gradient, truncated, refused, timeouts, sampler_apart, kl_away, reward_fallen)
    found = [finding for rule in rules if (finding := rule(rows)) is not None]
    return [finding if finding.where else finding._replace(where=_recent_steps(rows)) for finding in found]


def steps_of(rows: Sequence[Row]) -> str:
    """'steps 81 to 100'; nothing for rows that do not say which step they are."""
    steps = [row["step"] for row in rows if "step" in row]
    if not steps:
        return ""
    return f"step {steps[0]}" if steps[0] == steps[-1] else f"steps {steps[0]} to {steps[-1]}"


def no_gradient(rows: Sequence[Row]) -> Finding | None:
    """Nothing is learned: half of all steps or more, or the last `STALLED_STEPS`, had no gradient; with the cause."""
    dead = [row for row in rows if row.get("grad_norm") == 0]
    streak = next((i for i, row in enumerate(reversed(rows)) if row.get("grad_norm") != 0), len(rows))
    if dead and 2 * len(dead) >= len(rows):
        which = f"{len(dead)} of {len(rows)} steps had no gradient"
        learned = "Nothing is learned" if len(dead) == len(rows) else "Most steps teach nothing"
    elif streak >= STALLED_STEPS:
        dead = list(rows[-streak:])
        which, learned = f"the last {streak} of {len(rows)} steps had no gradient", "Nothing is learned any more"
    else:
        return None
    what, remedy = _cause(dead)
    return Finding(f"{learned}: {what}", "; ".join([which, *_figures(dead)]), remedy, steps_of(dead))


def _cause(dead: Sequence[Row]) -> tuple[str, str]:
    """Why these steps had no gradient, and what to change; the cause behind other causes comes first."""
    right, wrong = _mean(dead, "frac_all_correct"), _mean(dead, "frac_all_wrong")
    accepted, no_answer = _mean(dead, "expo/explanation_accept_rate"), _mean(dead, "verdicts/no_answer") or 0.0
    cut_off = _mean(dead, "completions/clipped_ratio") or 0.0
    if (_mean(dead, "update/n_rows") or 0.0) > 0:
        return "what is trained on has a gradient of 0", "Raise --exp-sft-coef, or take another --method."
    if (_mean(dead, "pairs/none_wrong") or 0.0) > (_mean(dead, "pairs/no_chosen") or 0.0):
        return "no completion is wrong, so there are no pairs", _HARDER
    if right is None or wrong is None:
        return (
            "no problem has a chain to learn from",
            "Name the field of the data that has chains with --fields chain=NAME.",
        )
    if cut_off >= NEARLY_ALL:
        return "completions are cut off before they have an answer", f"Raise --max-completion-tokens. {_NOT_AT_FIRST}"
    if right >= NEARLY_ALL:
        return "every completion is right already", _HARDER
    if no_answer >= NEARLY_ALL:
        return "completions have no final answer", "Teach the form of an answer first: some steps of --method sft."
    if accepted == 0:
        return "no explanation is accepted", _refusal_remedy(dead)
    if wrong >= NEARLY_ALL:
        remedy = "Take --method exp-grpo, which explains such problems; easier --levels; or a larger --group-size."
        return "every completion is wrong", remedy
    remedy = "Take a larger --group-size, --levels in between, or --method exp-grpo."
    return "every group is all right or all wrong", remedy


_NOT_AT_FIRST = (
    "If hardly any were at first, the policy is falling apart: take an earlier checkpoint, or lower --learning-rate."
)
_HARDER = "Train on harder problems: other --levels, or what `expo-lite hard` finds."


def _refusal_remedy(rows: Sequence[Row]) -> str:
    remedies = {
        "truncated": "Raise --max-completion-tokens.",
        "no_lift": "Take lift out of --explanation-filter.",
    }
    other = "Read some with `expo-lite explain`; take --explanations-per-problem 4, a larger model, or expert chains."
    return remedies.get(_most_refused(rows) or "", other)


def _most_refused(rows: Sequence[Row]) -> str | None:
    """The reason for which most explanations were refused."""
    names = sorted({name for row in rows for name in row if name.startswith("expo/refused/")})
    totals = {name.rpartition("/")[2]: sum(row.get(name, 0.0) for row in rows) for name in names}
    return max(totals, key=lambda name: totals[name], default=None)


def _figures(rows: Sequence[Row]) -> list[str]:
    shown = (
        ("frac_all_wrong", "groups all wrong"),
        ("frac_all_correct", "all right"),
        ("completions/clipped_ratio", "completions cut off"),
        ("verdicts/no_answer", "without an answer"),
        ("expo/explanation_accept_rate", "explanations accepted"),
    )
    parts = [f"{label} {value:.0%}" for name, label in shown if (value := _mean(rows, name)) is not None]
    reason = _most_refused(rows)
    return [*parts, f"most refused as {reason}"] if reason else parts


def dead_groups(rows: Sequence[Row]) -> Finding | None:
    """Rewards teach nothing: hardly any group has both right and wrong completions. For methods that compare those.

    A group that is all wrong, and whose problem has an accepted explanation to learn from, is not dead.
    """
    if len(rows) < STALLED_STEPS or (share := _beyond(rows, "frac_reward_zero_std", NEARLY_ALL)) is None:
        return None
    right, wrong = _recent(rows, "frac_all_correct") or 0.0, _recent(rows, "frac_all_wrong") or 0.0
    if share - wrong * (_recent(rows, "expo/explanation_accept_rate") or 0.0) <= NEARLY_ALL:
        return None
    figures = f"{share:.0%} of groups; all wrong {wrong:.0%}, all right {right:.0%}"
    remedy = _HARDER if right > wrong else "Take easier --levels, a larger --group-size, or --method exp-grpo."
    return Finding("Nearly every group is dead: its rewards are all the same", figures, remedy, _recent_steps(rows))


def truncated(rows: Sequence[Row]) -> Finding | None:
    """Too many completions are cut off at the limit, which counts as wrong."""
    share = _beyond(rows, "completions/clipped_ratio", MOST_TRUNCATED)
    if share is None:
        return None
    longest = max((row.get("completions/max_length", 0) for row in rows[-RECENT:]), default=0)
    at = f" at {longest:.0f} tokens" if longest else ""
    remedy = "Raise --max-completion-tokens."
    if rows[0].get("completions/clipped_ratio", 1.0) <= MOST_TRUNCATED:  # sampled before anything was learned
        remedy = "They were not at first: take an earlier checkpoint, or lower --learning-rate; or "
        remedy += "raise --max-completion-tokens."
    return Finding("Many completions are cut off, and count as wrong", f"{share:.0%}{at}", remedy)


def refused(rows: Sequence[Row]) -> Finding | None:
    """Too few explanations are accepted."""
    share = _recent(rows, "expo/explanation_accept_rate")
    if share is None or share >= LEAST_ACCEPTED:
        return None
    reason = _most_refused(rows[-RECENT:])
    figures = f"{share:.0%}" + (f"; most refused as {reason}" if reason else "")
    return Finding("Hardly any explanation is accepted", figures, _refusal_remedy(rows[-RECENT:]))


def timeouts(rows: Sequence[Row]) -> Finding | None:
    """The grader gives up too often."""
    share = _beyond(rows, "verdicts/timeout", MOST_TIMEOUTS)
    if share is None:
        return None
    remedy = "Look at such completions in samples.jsonl (reason timeout): a grader's time limit counts as wrong."
    return Finding("The grader runs out of time", f"{share:.0%} of verdicts", remedy)


def sampler_apart(rows: Sequence[Row]) -> Finding | None:
    """The sampler's log-probabilities are not the scorer's: training follows noise."""
    nats = _beyond(rows, "sampling/logp_difference/mean", MOST_LOGP_DIFFERENCE_NATS)
    if nats is None:
        return None
    return Finding(
        "What is sampled is not what is scored",
        f"{nats:.2f} nats a token apart",
        "Take another --sampler or --backend.",
    )


def kl_away(rows: Sequence[Row]) -> Finding | None:
    """The policy has moved very far from the base model."""
    nats = _beyond(rows, "kl", MOST_KL_NATS)
    if nats is None:
        return None
    remedy = "Lower --learning-rate, raise --kl-coef, or take an earlier checkpoint."
    return Finding("The policy is far from its base model", f"KL {nats:.1f} nats a token", remedy)


def reward_fallen(rows: Sequence[Row]) -> Finding | None:
    """The reward has been much better before."""
    rewards = [row["reward"] for row in rows if "reward" in row]
    if len(rewards) < 2 * RECENT:
        return None
    means = [mean(rewards[i : i + RECENT]) for i in range(len(rewards) - RECENT + 1)]
    best, now = max(means), means[-1]
    if best - now <= WORST_FALL:
        return None
    remedy = "Take an earlier checkpoint, fewer --steps, or a lower --learning-rate."
    return Finding("The policy is unlearning", f"mean reward {best:.2f} at its best, {now:.2f} now", remedy)


def _beyond(rows: Sequence[Row], name: str, most: float) -> float | None:
    """A metric's recent mean where it is above a bound."""
    value = _recent(rows, name)
    return value if value is not None and value > most else None


def _recent_steps(rows: Sequence[Row]) -> str:
    return steps_of(rows[-RECENT:])


def _recent(rows: Sequence[Row], name: str) -> float | None:
    return _mean(rows[-RECENT:], name)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a metric over the rows that could have it; None where none has it.

    A reason that no verdict had is not written; beside a reward it means 0.
    """
    values = [float(row[name]) for row in rows if name in row]
    if not values:
        return None
    absent = sum("reward" in row for row in rows) - len(values) if name.startswith("verdicts/") else 0
    return sum(values) / (len(values) + max(absent, 0))
