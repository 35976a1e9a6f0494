"""Rules that tell from a run's metrics what is wrong with it, with the figures that show it and what to change.

`train` applies them while it runs and at its end, `doctor` to any run. What a row lacks is not judged. The limits are
rules of thumb, not measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from expo_lite.run.metrics import mean
from expo_lite.settings.metrics import described, percent, text_of
from expo_lite.terminal import counted

Row = Mapping[str, Any]

STALLED_STEPS = 5
"""Steps in a row without a gradient that count as a stall."""
RECENT = 20
"""The last steps, which most rules look at."""
NEARLY_ALL = 0.9
LEAST_ACCEPTED = 0.1
WORST_FALL = 0.25
"""The fall of the mean reward, from its best `RECENT` steps to the last ones, that counts as unlearning."""
SHOWN = ("frac_all_wrong", "frac_all_correct", "completions/clipped_ratio", "verdicts/no_answer",
         "expo/explanation_accept_rate")  # fmt: skip
"""Figures of steps without a gradient."""


class Finding(NamedTuple):
    """One thing that is wrong: a sentence, its figures, what to do, and the steps it was seen at, if known."""

    what: str
    figures: str
    remedy: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({'; '.join(filter(None, (self.figures, self.where)))}). {self.remedy}"


LIMITS = (
    ("completions/clipped_ratio", 0.2, Finding("Many completions are cut off, and count as wrong", "{}",
     "Raise --max-completion-tokens; if they were not at first, take an earlier checkpoint or lower --learning-rate.")),
    ("verdicts/timeout", 0.05, Finding("The grader runs out of time", "{} of verdicts",
     "Look at such completions in samples.jsonl (reason timeout): a grader's time limit counts as wrong.")),
    ("sampling/logp_difference/mean", 0.1, Finding("What is sampled is not what is scored", "{} a token apart",
     "Take another --sampler or --backend.")),
    ("kl", 1.0, Finding("The policy is far from its base model", "KL {} a token",
     "Lower --learning-rate, raise --kl-coef, or take an earlier checkpoint.")),
)  # fmt: skip
"""Metrics whose recent mean should not be above a limit."""
FLOORS = (
    ("expo/explanation_valid_rate", NEARLY_ALL, Finding("Explanations with wrong steps are trained on",
     "of those accepted and checked {} have right steps",
     "Take --explanation-filter steps or reliance, or expert chains.")),
    ("second/accept_rate", LEAST_ACCEPTED, Finding("Hardly any hint or form that the model writes is of use", "{}",
     "Read some in samples.jsonl (kind written), and take a larger model or --method exp-grpo.")),
)  # fmt: skip
"""Metrics whose recent mean, over `STALLED_STEPS` or more of the steps that have it, should not be below a limit."""
HARDER = "Train on harder problems: other --levels, or what `expo-lite eval --write-unsolved` finds."


def findings(rows: Sequence[Row], *, draw: str = "new") -> list[Finding]:
    """Apply all rules to a run's metrics; the gravest finding first.

    `draw` is the run's setting: where problems are drawn by their success rates, a fall of the reward says nothing.
    """
    recent = rows[-RECENT:]
    found = [no_gradient(rows)]
    for name, limit, finding in LIMITS:
        if (value := _mean(recent, name) or 0.0) > limit:
            found.append(finding._replace(figures=finding.figures.format(text_of(name, value))))
    accepted = _accepted(recent)
    if accepted is not None and accepted < LEAST_ACCEPTED:
        reason = _most_refused(recent)
        figures = percent(accepted) + (f"; most refused as {reason}" if reason else "")
        found.append(Finding("Hardly any explanation is accepted", figures, _refusal_remedy(recent)))
    for name, least, finding in FLOORS:
        values = [row[name] for row in recent if name in row]
        if len(values) >= STALLED_STEPS and mean(values) < least:
            found.append(finding._replace(figures=finding.figures.format(percent(mean(values)))))
    found.append(_reward_fallen(rows) if draw == "new" else None)
    return [finding if finding.where else finding._replace(where=_steps(recent)) for finding in found if finding]


def no_gradient(rows: Sequence[Row]) -> Finding | None:
    """Find that nothing is learned: at least half of `RECENT` steps or more, or the last few, had no gradient."""
    dead = [row for row in rows if row.get("grad_norm") == 0]
    streak = next((i for i, row in enumerate(reversed(rows)) if row.get("grad_norm") != 0), len(rows))
    if dead and 2 * len(dead) >= len(rows) and (len(rows) >= RECENT or len(dead) == len(rows)):
        which = f"{len(dead)} of {counted(len(rows), 'step')} had no gradient"
        learned = "Nothing is learned" if len(dead) == len(rows) else "Most steps teach nothing"
    elif streak >= STALLED_STEPS:
        dead = list(rows[-streak:])
        which, learned = f"the last {streak} of {len(rows)} steps had no gradient", "Nothing is learned any more"
    else:
        return None
    what, remedy = _cause(dead)
    figures = described({name: _mean(dead, name) for name in SHOWN}, SHOWN)
    reason = _most_refused(dead)
    figures += [f"most refused as {reason}"] if reason else []
    return Finding(f"{learned}: {what}", "; ".join([which, *figures]), remedy, _steps(dead))


def dead_groups(rows: Sequence[Row]) -> Finding | None:
    """Find that hardly any group has both right and wrong completions, for methods that compare those.

    A group that is all wrong, and whose problem has an accepted explanation or a second group to learn from, is not
    dead.
    """
    recent = rows[-RECENT:]
    share = _mean(recent, "frac_reward_zero_std") or 0.0
    right, wrong = _mean(recent, "frac_all_correct") or 0.0, _mean(recent, "frac_all_wrong") or 0.0
    again = mean(row.get("second/groups", 0.0) for row in recent)
    learned = max(wrong * (_accepted(recent) or 0.0), again)
    if len(rows) < STALLED_STEPS or not share - learned > NEARLY_ALL:  # NaN is no finding
        return None
    figures = f"{share:.0%} of groups; all wrong {wrong:.0%}, all right {right:.0%}"
    remedy = HARDER if right > wrong else "Take easier --levels, a larger --group-size, or --method exp-grpo."
    return Finding("Nearly every group is dead: its rewards are all the same", figures, remedy, _steps(recent))


def _cause(dead: Sequence[Row]) -> tuple[str, str]:
    """Why these steps had no gradient, and what to change; a cause of other causes comes first."""
    right, wrong = _mean(dead, "frac_all_correct"), _mean(dead, "frac_all_wrong")
    if _mean(dead, "update/n_rows"):
        return "what is trained on has a gradient of 0", "Raise --exp-sft-coef, or take another --method."
    if (_mean(dead, "pairs/none_wrong") or 0.0) > (_mean(dead, "pairs/no_chosen") or 0.0):
        return "no completion is wrong, so there are no pairs", HARDER
    if right is None or wrong is None:
        remedy = "Name the field of the data that has chains: --fields chain=NAME."
        return "no problem has a chain to learn from", remedy
    if (_mean(dead, "completions/clipped_ratio") or 0.0) >= NEARLY_ALL:
        return "completions are cut off before they have an answer", LIMITS[0][2].remedy
    if right >= NEARLY_ALL:
        return "every completion is right already", HARDER
    if (_mean(dead, "verdicts/no_answer") or 0.0) >= NEARLY_ALL:
        return "completions have no final answer", "Teach the form of an answer first: some steps of --method sft."
    if _mean(dead, "expo/explanation_accept_rate") == 0:
        return "no explanation is accepted", _refusal_remedy(dead)
    if wrong >= NEARLY_ALL:
        remedy = "Take --method exp-grpo, which explains such problems; easier --levels; or a larger --group-size."
        return "every completion is wrong", remedy
    remedy = "Take a larger --group-size, --levels in between, or --method exp-grpo."
    return "every group is all right or all wrong", remedy


def _accepted(rows: Sequence[Row]) -> float | None:
    """The share of explanations to learn from: those used again, and the accepted ones of the others."""
    names = ("expo/reused", "expo/explanation_accept_rate")  # a step without explanations has neither
    each = [[row.get(name, 0.0) for name in names] for row in rows if any(name in row for name in names)]
    return mean(again + (1.0 - again) * accepted for again, accepted in each) if each else None


def _refusal_remedy(rows: Sequence[Row]) -> str:
    remedies = {
        "truncated": LIMITS[0][2].remedy,
        "wrong_step": "They copy the answer after a wrong equation: take a larger model, or expert chains.",
        "no_lift": "Take lift out of --explanation-filter.",
        "unread_steps": "Equations cannot be read, or do not lead to the answer: take --explanation-filter arithmetic.",
    }
    other = "Read some with `expo-lite diagnose --show 4`; take --explanations-per-problem 4 or a larger model."
    return remedies.get(_most_refused(rows) or "", other)


def _most_refused(rows: Sequence[Row]) -> str | None:
    """The reason for which most explanations were refused."""
    names = sorted({name for row in rows for name in row if name.startswith("expo/refused/")})
    name = max(names, key=lambda name: sum(row.get(name, 0.0) for row in rows), default=None)
    return name and name.rpartition("/")[2]


def _reward_fallen(rows: Sequence[Row]) -> Finding | None:
    """Find that the reward has been much better before; not of pairs, whose groups are of ever other problems."""
    rewards = [row["reward"] for row in rows if "reward" in row and "pairs/used" not in row]
    if len(rewards) < 2 * RECENT:
        return None
    means = [mean(rewards[i : i + RECENT]) for i in range(len(rewards) - RECENT + 1)]
    best, now = max(means), means[-1]
    if best - now <= WORST_FALL:
        return None
    remedy = "Take an earlier checkpoint, fewer --steps, or a lower --learning-rate."
    return Finding("The policy is unlearning", f"mean reward {best:.2f} at its best, {now:.2f} now", remedy)


def _steps(rows: Sequence[Row]) -> str:
    """'steps 81 to 100'; '' for rows that do not say which step they are."""
    steps = [row["step"] for row in rows if "step" in row]
    if not steps:
        return ""
    return f"step {steps[0]}" if steps[0] == steps[-1] else f"steps {steps[0]} to {steps[-1]}"


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a metric over the rows that could have it; None if no row has it.

    A reason that no verdict had is not written; beside a reward it means 0.
    """
    values = [float(row[name]) for row in rows if name in row]
    if not values:
        return None
    absent = sum("reward" in row for row in rows) - len(values) if name.startswith("verdicts/") else 0
    return sum(values) / (len(values) + max(absent, 0))
