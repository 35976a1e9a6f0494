"""Two policies on the same held-out problems: paired differences of pass@k, and the problems won and lost."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from expo_lite.records import Level, by_level
from expo_lite.results.figures import ProblemResult
from expo_lite.results.record import RunRecord, differing
from expo_lite.results.statistics import Estimate, ks_up_to, over_problems, pass_at_k

TERMS = ("task", "data.", "question_prompt", "evaluation.eval_temperature", "sampling.max_completion_tokens",
         "policy.thinking", "policy.chat_template")  # fmt: skip
"""Prefixes of the settings that must be equal for a pairing."""


@dataclass(frozen=True, slots=True)
class Change:
    """One problem under the first and the second policy: right completions, of `n` each."""

    problem_id: str
    level: str | None
    n: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class PairedLevel:
    """pass@k of two policies on one level's problems, and the second minus the first; by k."""

    level: str
    n_problems: int
    first: dict[int, float]
    second: dict[int, float]
    difference: dict[int, Estimate]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two policies on the same problems: level by level ("all" last), and problem by problem."""

    title: str
    levels: list[PairedLevel]
    changes: list[Change]

    @property
    def ks(self) -> list[int]:
        """Each k that every problem has samples for."""
        return list(self.levels[0].difference)

    @property
    def won(self) -> list[Change]:
        """Problems never right in the first, and right at least once in the second; the surest first."""
        return sorted((c for c in self.changes if c.first == 0 < c.second), key=lambda c: -c.second / c.n)

    @property
    def lost(self) -> list[Change]:
        """Problems right at least once in the first, and never in the second; the surest first."""
        return sorted((c for c in self.changes if c.second == 0 < c.first), key=lambda c: -c.first / c.n)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs: settings, versions and devices that differ, and their held-out problems, paired where possible."""

    first: str
    second: str
    settings: list[tuple[str, list[Any]]]
    pairing: Pairing | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {"first": self.first, "second": self.second, "settings": dict(self.settings), "pairing": None}
        if self.pairing is None:
            return values
        won, lost = ([asdict(change) for change in changes] for changes in (self.pairing.won, self.pairing.lost))
        return values | {"pairing": asdict(self.pairing) | {"won": won, "lost": lost}}


def compare(first: RunRecord, second: RunRecord) -> Comparison:
    """Compare two runs: their last evaluations are paired if the problems were chosen and sampled alike."""
    differ = differing([first, second])
    comparable = not any(name.startswith(TERMS) for name, _ in differ)
    pairing = None
    if comparable and first.evaluated and second.evaluated:
        ours, theirs = first.evaluated[-1], second.evaluated[-1]
        after = " and ".join(map(str, dict.fromkeys((ours.step, theirs.step))))
        title = f"{second.label} minus {first.label} (in training, after step {after})"
        pairing = pair(title, ours.evaluation.problems, theirs.evaluation.problems)
    return Comparison(first.label, second.label, differ, pairing)


def pair(title: str, first: Sequence[ProblemResult], second: Sequence[ProblemResult]) -> Pairing | None:
    """Pair the problems that both have with equally many samples; None if there is no such problem."""
    others = {result.problem_id: result for result in second}
    changes = [
        Change(ours.problem_id, _word(ours.level), ours.n, ours.n_correct, theirs.n_correct)
        for ours in first
        if (theirs := others.get(ours.problem_id)) and theirs.n == ours.n
    ]
    if not changes:
        return None
    ks = ks_up_to(min(change.n for change in changes))
    levels = by_level(changes, lambda change: change.level)
    return Pairing(title, [_paired_level(level, members, ks) for level, members in levels], changes)


def _paired_level(level: str, changes: Sequence[Change], ks: Sequence[int]) -> PairedLevel:
    first = {k: [pass_at_k(c.n, c.first, k) for c in changes] for k in ks}
    second = {k: [pass_at_k(c.n, c.second, k) for c in changes] for k in ks}
    differences = {k: [b - a for a, b in zip(first[k], second[k], strict=True)] for k in ks}
    return PairedLevel(
        level=level,
        n_problems=len(changes),
        first={k: sum(first[k]) / len(changes) for k in ks},
        second={k: sum(second[k]) / len(changes) for k in ks},
        difference={k: over_problems(differences[k], lowest=-1.0) for k in ks},
    )


def _word(level: Level | None) -> str | None:
    return None if level is None else str(level)
