"""Yes or no: whether explanations are good positives, from the figures of the levels that would be trained on; pure.

The bounds were settled by hand, on the built-in task. They are coarse on purpose: what lies near one of them should be
looked at, not believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from expo_lite.results.statistics import Estimate

FEW = 8
"""Fewer problems than this say nothing."""
SOLVED = 0.9
HARDLY = 0.1
HALF = 0.5

Outcome = Literal["yes", "no", "solved", "undecided"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the verdict on one level looks at; None where there was nothing to measure.

    Shares: own answers that are `right`, explanations `accepted` and `truncated`, chains that are right with a wrong
    answer shown (`misled_right`), accepted explanations with `valid` steps, and those from which the policy reaches the
    answer again (`rederived`). Nats: `lift` and `own_lift`, and `nll` and `expert_nll` a token.
    """

    n_problems: int
    right: float
    accepted: float
    truncated: float = 0.0
    misled_right: float | None = None
    valid: float | None = None
    rederived: float | None = None
    lift: float | None = None
    own_lift: float | None = None
    nll: Estimate | None = None
    expert_nll: Estimate | None = None


@dataclass(frozen=True, slots=True)
class LevelVerdict:
    """The outcome of one level, why, and what to try."""

    outcome: Outcome
    why: str
    attempt: str = ""


def judge_level(facts: Facts) -> LevelVerdict:
    """The first rule that speaks decides: what would make all later figures worthless comes first."""
    if facts.n_problems < FEW:
        return LevelVerdict("undecided", f"{facts.n_problems} problems are too few", f"--problems {4 * FEW}")
    if facts.right >= SOLVED:
        return LevelVerdict("solved", f"{facts.right:.0%} of its own answers are right already", "a harder level")
    if facts.accepted < HARDLY:
        return _hardly_any(facts)
    if facts.misled_right is not None and facts.misled_right >= HALF * facts.accepted:
        return LevelVerdict(
            "no",
            f"with a wrong answer shown {facts.misled_right:.0%} are right too: the prompt helps, not the answer",
            "the explanation prompt's wording as the plain prompt, or star",
        )
    if facts.valid is not None and facts.valid < HALF:
        return LevelVerdict(
            "no",
            f"only {facts.valid:.0%} of those accepted have right steps: the answer is copied",
            "--explanation-filter verified re-derivation, a larger model, or expert chains",
        )
    if facts.valid is None and facts.rederived is not None and facts.rederived < HALF:
        return LevelVerdict(
            "no",
            f"from only {facts.rederived:.0%} of those accepted is the answer reached again: it is copied",
            "--explanation-filter verified re-derivation, a larger model, or expert chains",
        )
    if facts.lift is not None and facts.own_lift is not None and facts.lift <= facts.own_lift:
        return LevelVerdict(
            "no",
            f"no positive signal: lift {facts.lift:.2f} nats, of the model's own chains {facts.own_lift:.2f}",
            "--explanation-filter verified lift",
        )
    if facts.nll and facts.expert_nll and facts.nll.low > facts.expert_nll.high:
        return LevelVerdict("no", "expert chains are more probable than explanations", "gt-sft-grpo, or sft")
    return LevelVerdict("yes", f"{facts.accepted:.0%} accepted, and the answer is what they follow from")


def _hardly_any(facts: Facts) -> LevelVerdict:
    if facts.truncated > HALF:
        return LevelVerdict(
            "no", f"{facts.truncated:.0%} of explanations are cut off by the limit", "--max-completion-tokens"
        )
    return LevelVerdict(
        "no",
        f"only {facts.accepted:.0%} of explanations are accepted",
        "a larger model, --explanations-per-problem 4, or examples by --explanation-prompt",
    )


def closing_line(verdicts: Mapping[str, LevelVerdict]) -> str:
    """One line over the levels that would be trained on; of a task without levels, "all" is the only one."""
    open_levels = {level: v for level, v in verdicts.items() if v.outcome != "solved"}
    if not open_levels:
        return "Verdict: nothing to learn here; the levels are solved already. Try a harder level."
    outcomes = {verdict.outcome for verdict in open_levels.values()}
    if outcomes == {"yes"}:
        head = "yes; explanations are good positives here"
    elif outcomes == {"no"}:
        head = "no; explanations are no good positives here"
    elif outcomes == {"undecided"}:
        head = "undecided"
    else:
        head = ", ".join(f"{v.outcome} on level {level}" for level, v in open_levels.items())
    hardest = list(open_levels.values())[-1]
    attempt = f". Try {hardest.attempt}" if hardest.attempt else ""
    return f"Verdict: {head}. At the hardest level: {hardest.why}{attempt}."
