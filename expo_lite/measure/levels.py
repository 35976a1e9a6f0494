"""The figures of chains by level, with intervals over problems, and the verdict on each level."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from expo_lite.measure.chains import CONTROL, KINDS, REFUSED, UNFILTERED, ChainFigure
from expo_lite.measure.verdict import Facts, LevelVerdict, judge_level
from expo_lite.records import ALL, Explanation, FinishReason, Group, GroupKind, by_level
from expo_lite.results.statistics import Estimate, bootstrap_mean, wilson
from expo_lite.run.metrics import mean


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
    right: dict[str, Estimate | None] = field(default_factory=dict)
    """By kind of chain: with the right answer; of explanations all attempts count, not only those accepted."""
    valid: dict[str, Estimate | None] = field(default_factory=dict)
    """By kind: with right steps, where the task can tell; of explanations those accepted."""
    reliance: dict[str, Estimate | None] = field(default_factory=dict)
    """By kind: nats a token by which an answer in the prompt makes the chain more probable."""
    rederived: Estimate | None = None
    """Of accepted explanations: those from which, without the answer, the policy reaches it again."""
    explanations_truncated: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an interval that a single problem leaves open has null for its ends."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


@dataclass(frozen=True, slots=True)
class Checks:
    """By kind and problem id: right answers, valid steps; and re-derived explanations by problem id."""

    right: dict[str, dict[str, bool]] = field(default_factory=dict)
    valid: dict[str, dict[str, bool]] = field(default_factory=dict)
    rederived: dict[str, bool] = field(default_factory=dict)


def levels_of(
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    figures: Sequence[ChainFigure],
    checks: Checks = Checks(),
) -> list[LevelDiagnosis]:
    """The figures by level, then of all where there is more than one level."""
    named = by_level(groups, lambda group: group.problem.level)
    return [_level(name, own, explanations, figures, checks) for name, own in named]


def _level(
    name: str,
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    figures: Sequence[ChainFigure],
    checks: Checks,
) -> LevelDiagnosis:
    here = {group.problem.problem_id for group in groups}
    explanations = [e for e in explanations if e.problem.problem_id in here]
    figures = [f for f in figures if f.problem.problem_id in here]
    members = {kind: (kind,) for kind in (*KINDS, CONTROL)} | {UNFILTERED: ("explanation", REFUSED)}
    by_kind = {name: {f.problem.problem_id: f for f in figures if f.kind in kinds} for name, kinds in members.items()}

    def shares(checked: dict[str, dict[str, bool]]) -> dict[str, Estimate | None]:
        return {kind: _checked(own, here) for kind, own in checked.items()}

    both = [(by_kind["expert"][i].nll, e.nll) for i, e in by_kind["explanation"].items() if i in by_kind["expert"]]
    return LevelDiagnosis(
        level=name,
        n_problems=len(groups),
        reward=bootstrap_mean([mean(group.rewards) for group in groups]),
        all_wrong=_share(group.kind is GroupKind.ALL_WRONG for group in groups),
        truncated=bootstrap_mean(
            [mean(c.finish_reason is FinishReason.LENGTH for c in group.completions) for group in groups]
        ),
        accepted=_share(e.accepted for e in explanations),
        nll={kind: _unbounded([f.nll for f in own.values()]) for kind, own in by_kind.items()},
        lift={kind: _unbounded([f.lift for f in own.values()]) for kind, own in by_kind.items()},
        nll_ratio=_ratio(both),
        right=shares(checks.right),
        valid=shares(checks.valid),
        reliance={
            kind: _unbounded([f.reliance for f in own.values() if f.reliance is not None])
            for kind, own in by_kind.items()
        },
        rederived=_checked(checks.rederived, here),
        explanations_truncated=_share(e.completion.finish_reason is FinishReason.LENGTH for e in explanations),
    )


def _checked(checked: dict[str, bool], here: set[str]) -> Estimate | None:
    own = [flag for problem_id, flag in checked.items() if problem_id in here]
    return _share(own) if own else None


def _share(flags: Iterable[bool]) -> Estimate:
    values = list(flags)
    return wilson(sum(values), len(values))


def _unbounded(values: Sequence[float]) -> Estimate | None:
    return bootstrap_mean(values, lowest=-math.inf, highest=math.inf) if values else None


def _ratio(both: Sequence[tuple[float, float]]) -> Estimate | None:
    """The ratio of two means over the same problems; its interval is by bootstrap and the delta method."""
    below = mean(b for _, b in both)
    if not below:
        return None
    ratio = mean(a for a, _ in both) / below
    linear = _unbounded([(a - ratio * b) / below for a, b in both])
    return Estimate(ratio, ratio + linear.low, ratio + linear.high) if linear else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def facts_of(row: LevelDiagnosis) -> Facts:
    """What the verdict looks at."""

    def value(estimate: Estimate | None) -> float | None:
        return None if estimate is None else estimate.value

    return Facts(
        n_problems=row.n_problems,
        right=row.reward.value,
        accepted=row.accepted.value,
        truncated=value(row.explanations_truncated) or 0.0,
        misled_right=value(row.right.get(CONTROL)),
        valid=value(row.valid.get("explanation")),
        rederived=value(row.rederived),
        lift=value(row.lift["explanation"]),
        own_lift=value(row.lift["own"]),
        nll=row.nll["explanation"],
        expert_nll=row.nll["expert"],
    )


def verdicts_of(levels: Sequence[LevelDiagnosis]) -> dict[str, LevelVerdict]:
    """The verdict on each level; on all together only where there are no levels."""
    single = [row for row in levels if row.level != ALL] or levels
    return {row.level: judge_level(facts_of(row)) for row in single}
