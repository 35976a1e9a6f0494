"""Figures of chains by level, and the verdict on each level: are explanations good positives? Free of torch.

The bounds were settled by hand, on the built-in task. They are coarse on purpose: look at what lies near one of them.
Right steps have two. On problems of `examples/boxes.py`, 42% of 400 explanations had right steps; of the first eight it
was more than half, and a run that took them all unlearned every level.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from expo_lite.records import ALL, Explanation, FinishReason, Group, GroupKind, Problem, by_level
from expo_lite.results.statistics import Estimate, finite, over_problems
from expo_lite.run.metrics import mean

KINDS = ("own", "explanation", "expert")
REFUSED, UNFILTERED = "refused", "unfiltered"
"""Explanations that were not accepted; and with them all that were written, as the paper's lemma has them."""
CONTROL: Final = "wrong-answer"
"""Chains that were written with another problem's answer shown, all of them, whatever they end with."""
QUARTERS = 4
FEW = 8
"""Fewer problems than this say nothing, and half as many accepted explanations."""
SOLVED = 0.9
HARDLY = 0.1
HALF = 0.5

Outcome = Literal["yes", "no", "solved", "undecided"]


@dataclass(frozen=True, slots=True)
class ChainFigure:
    """The figures of one chain: negative log-likelihood (nats a token) and answer lift (nats)."""

    problem: Problem
    kind: str
    nll: float
    lift: float
    text: str = ""
    reliance: float | None = None
    """Nats a token by which the answer shown makes the chain more probable, where it was measured."""
    anchoring: tuple[float, ...] = ()
    """The same by quarter of the chain, of one with at least a token in each."""
    right: bool | None = None
    """The chain's own answer is right; None of an expert's."""
    valid: bool | None = None
    """Its steps are right, where the task or its arithmetic can tell."""


@dataclass(frozen=True, slots=True)
class LevelDiagnosis:
    """The figures of one level, or of "all"; None for a kind of chain that is absent. Intervals are over problems.

    `nll` and `lift` are by kind of chain, `nll_ratio` is expert NLL over explanation NLL on the problems that have
    both. Of the own completions: `reward`, `all_wrong` (problems whose completions are all wrong) and `truncated`.
    """

    level: str
    n_problems: int
    reward: Estimate
    all_wrong: Estimate
    truncated: Estimate
    accepted: Estimate
    nll: dict[str, Estimate | None]
    lift: dict[str, Estimate | None]
    nll_ratio: Estimate | None
    lift_gain: dict[str, Estimate | None]
    """The lift of explanations minus that of the own chain of the same problem, nats, by kind."""
    right: dict[str, Estimate | None]
    """The share of chains with the right answer, by kind; all explanations count, not only those accepted."""
    valid: dict[str, Estimate | None]
    """The share with right steps, by kind, where they can be told; of explanations the accepted ones."""
    reliance: dict[str, Estimate | None]
    """Nats a token by which an answer in the prompt makes the chain more probable, by kind."""
    explanations_truncated: Estimate | None
    anchoring: dict[str, dict[str, Estimate | None]] = field(default_factory=dict)
    """The reliance by quarter of the chain, then by kind."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an interval that a single problem leaves open has null for its ends."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain


def levels_of(
    groups: Sequence[Group], explanations: Sequence[Explanation], figures: Sequence[ChainFigure]
) -> list[LevelDiagnosis]:
    """The figures by level, then of all where there is more than one level.

    Args:
        groups: completions of the plain prompt.
        explanations: one a problem.
        figures: of chains of all kinds, at most one of a kind a problem.
    """
    named = by_level(groups, lambda group: group.problem.level)
    return [_level(name, members, explanations, figures) for name, members in named]


def _level(
    name: str, groups: Sequence[Group], explanations: Sequence[Explanation], figures: Sequence[ChainFigure]
) -> LevelDiagnosis:
    here = {group.problem.problem_id for group in groups}
    explanations = [e for e in explanations if e.problem.problem_id in here]
    members = {kind: (kind,) for kind in (*KINDS, CONTROL)} | {UNFILTERED: ("explanation", REFUSED)}
    by_kind = {
        name: [f for f in figures if f.kind in kinds and f.problem.problem_id in here]
        for name, kinds in members.items()
    }

    def means(field: str) -> dict[str, Estimate | None]:
        return {kind: _unbounded(_known(chains, field)) for kind, chains in by_kind.items()}

    def share(kind: str, field: str) -> Estimate | None:
        found = _known(by_kind[kind], field)
        return _share(found) if found else None

    def quarter(q: int) -> dict[str, Estimate | None]:
        return {kind: _unbounded([f.anchoring[q] for f in own if f.anchoring]) for kind, own in by_kind.items()}

    experts = {f.problem.problem_id: f.nll for f in by_kind["expert"]}
    both = [(experts[i], f.nll) for f in by_kind["explanation"] if (i := f.problem.problem_id) in experts]
    own_lift = {f.problem.problem_id: f.lift for f in by_kind["own"]}
    return LevelDiagnosis(
        level=name,
        n_problems=len(groups),
        reward=over_problems([mean(group.rewards) for group in groups]),
        all_wrong=_share(group.kind is GroupKind.ALL_WRONG for group in groups),
        truncated=over_problems(
            [mean(c.finish_reason is FinishReason.LENGTH for c in group.completions) for group in groups]
        ),
        accepted=_share(e.accepted for e in explanations),
        nll=means("nll"),
        lift=means("lift"),
        nll_ratio=_ratio(both),
        lift_gain={
            kind: _unbounded([f.lift - own_lift[i] for f in by_kind[kind] if (i := f.problem.problem_id) in own_lift])
            for kind in ("explanation", UNFILTERED)
        },
        right={
            "own": share("own", "right"),
            "explanation": share(UNFILTERED, "right"),
            CONTROL: share(CONTROL, "right"),
        },
        valid={kind: share(kind, "valid") for kind in (*KINDS, CONTROL)},
        reliance=means("reliance"),
        anchoring={str(q + 1): quarter(q) for q in range(QUARTERS)},
        explanations_truncated=_share(e.completion.finish_reason is FinishReason.LENGTH for e in explanations),
    )


def _known(chains: Sequence[ChainFigure], field: str) -> list[float]:
    values = (getattr(chain, field) for chain in chains)
    return [value for value in values if value is not None]


def _share(flags: Iterable[float]) -> Estimate:
    return over_problems([float(flag) for flag in flags])


def _unbounded(values: Sequence[float]) -> Estimate | None:
    return over_problems(values, lowest=-math.inf, highest=math.inf) if values else None


def _ratio(both: Sequence[tuple[float, float]]) -> Estimate | None:
    """The ratio of two means over the same problems; its interval is by the delta method."""
    below = mean(b for _, b in both)
    if not below:
        return None
    ratio = mean(a for a, _ in both) / below
    linear = _unbounded([(a - ratio * b) / below for a, b in both])
    return Estimate(ratio, ratio + linear.low, ratio + linear.high) if linear else None


@dataclass(frozen=True, slots=True)
class LevelVerdict:
    """The outcome of one level, why, and what to try."""

    outcome: Outcome
    why: str
    attempt: str = ""


def verdicts_of(levels: Sequence[LevelDiagnosis]) -> dict[str, LevelVerdict]:
    """The verdict on each level; on all together only where there are no levels."""
    single = [row for row in levels if row.level != ALL] or levels
    return {row.level: judge_level(row) for row in single}


def judge_level(row: LevelDiagnosis) -> LevelVerdict:
    """The first rule that applies decides: what would make all later figures worthless comes first."""
    right, accepted = row.reward.value, row.accepted.value
    misled, shown = (_value(row.right.get(kind)) for kind in (CONTROL, "explanation"))
    valid = _value(row.valid.get("explanation"))
    gain = _value(row.lift_gain.get("explanation"))
    instead = "a larger model, or expert chains"
    if row.n_problems < FEW:
        return LevelVerdict("undecided", f"{row.n_problems} problems are too few", f"--problems {4 * FEW}")
    if right >= SOLVED:
        return LevelVerdict("solved", f"{right:.0%} of its own answers are right already", "a harder level")
    if accepted < HARDLY:
        cut = _value(row.explanations_truncated) or 0.0
        if cut > HALF:
            return LevelVerdict("no", f"{cut:.0%} of explanations are cut off by the limit", "--max-completion-tokens")
        remedy = "a larger model, --explanations-per-problem 4, or examples by --explanation-prompt"
        return LevelVerdict("no", f"only {accepted:.0%} of explanations are accepted", remedy)
    told = accepted if shown is None else shown
    without = right if told > right else 0.0  # of what the answer adds, where it adds something
    if misled is not None and misled - without >= HALF * (told - without):
        why = f"with a wrong answer shown {misled:.0%} are right too: the prompt helps, not the answer"
        return LevelVerdict("no", why, "the explanation prompt's wording as the plain prompt, or star")
    if (n := round(accepted * row.n_problems)) < FEW // 2:
        why = f"{n} accepted of {row.n_problems} explanations are too few to judge"
        return LevelVerdict("undecided", why, f"--problems {4 * FEW}")
    if valid is not None and valid < SOLVED:
        copied = ": the answer is copied" if valid < HALF else ""
        why = f"only {valid:.0%} of those accepted and checked have right steps{copied}"
        return LevelVerdict("no" if copied else "undecided", why, f"--explanation-filter steps or reliance, {instead}")
    if gain is not None and gain <= 0:
        why = f"no positive signal: their lift is {-gain:.2f} nats below that of the model's own chains"
        return LevelVerdict("no", why, "--explanation-filter arithmetic lift")
    if row.nll_ratio and row.nll_ratio.high < 1:
        return LevelVerdict("no", "expert chains are more probable than explanations", "gt-sft-grpo, or sft")
    return LevelVerdict("yes", f"{accepted:.0%} accepted, and the answer is what they follow from")


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def closing_line(verdicts: Mapping[str, LevelVerdict]) -> str:
    """One line over the levels that would be trained on; of a task without levels, "all" is the only one."""
    open_levels = {level: v for level, v in verdicts.items() if v.outcome != "solved"}
    if not open_levels:
        return "Verdict: nothing to learn here; the levels are solved already. Try a harder level."
    outcomes = {verdict.outcome for verdict in open_levels.values()}
    head = ", ".join(f"{v.outcome} on level {level}" for level, v in open_levels.items())
    if len(outcomes) == 1:
        (only,) = outcomes
        said = {"yes": "; explanations are good positives here", "no": "; explanations are not good positives here"}
        head = only + said.get(only, "")
    hardest = list(open_levels.values())[-1]
    attempt = f". Try {hardest.attempt}" if hardest.attempt else ""
    return f"Verdict: {head}. At the hardest level: {hardest.why}{attempt}."
