"""Two policies on the same held-out problems: paired differences of pass@k, and the problems won and lost."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expo_lite.records import Level, by_level
from expo_lite.results.figures import ProblemResult
from expo_lite.results.record import RunRecord, differing, read_json
from expo_lite.results.statistics import Estimate, bootstrap_mean, ks_up_to, pass_at_k
from expo_lite.run.folder import JsonLines
from expo_lite.settings.schema import flat

IDENTITY = ("model", "bits", "backend", "sampler", "adapter_sha256")
"""The policy's own entries in the config.json of an evaluation folder; the others must be equal for a pairing."""
IN_TRAINING = re.compile(r"step-\d+")
"""Names of sample folders of evaluations in training; their counts are in the file beside the folder."""
TERMS = ("task", "evaluation.eval_temperature")
"""Settings that must be equal for a pairing of evaluations in training, beside all that begin with `data.`."""


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


@dataclass(frozen=True, slots=True)
class KeptCounts:
    """Counts by problem that a run has kept: in training, or by `expo-lite eval`."""

    where: str
    terms: tuple[tuple[str, str], ...]
    """How the problems were chosen and sampled: everything but the policy."""
    problems: tuple[ProblemResult, ...]


def compare(first: RunRecord, second: RunRecord) -> Comparison:
    """Compare two runs: the pairing is the one on equal terms with most problems in common.

    Raises:
        CheckpointError: a file of a run is damaged.
    """
    pairings = [
        pairing
        for ours in kept_counts(first)
        for theirs in kept_counts(second)
        if ours.terms == theirs.terms
        and (pairing := pair(_title(first, ours, second, theirs), ours.problems, theirs.problems))
    ]
    best = max(pairings, key=lambda pairing: len(pairing.changes), default=None)
    return Comparison(first.label, second.label, differing([first, second]), best)


def pair(title: str, first: Sequence[ProblemResult], second: Sequence[ProblemResult]) -> Pairing | None:
    """Pair the problems that both have with equally many samples; None if there is no such problem."""
    others = {result.problem_id: result for result in second}
    changes = [
        Change(ours.problem_id, _word(ours.level), ours.n, ours.n_correct, others[ours.problem_id].n_correct)
        for ours in first
        if ours.problem_id in others and others[ours.problem_id].n == ours.n
    ]
    if not changes:
        return None
    ks = ks_up_to(min(change.n for change in changes))
    levels = by_level(changes, lambda change: change.level)
    return Pairing(title, [_paired_level(level, members, ks) for level, members in levels], changes)


def kept_counts(run: RunRecord) -> list[KeptCounts]:
    """All counts by problem in a run folder: of its last evaluation, then of evaluation folders, newest first.

    Raises:
        CheckpointError: a file is damaged.
    """
    found = []
    in_training = [evaluated for evaluated in run.evaluated if evaluated.evaluation.problems]
    if in_training:
        last = in_training[-1]
        named = {name: value for name, value in run.settings.items() if name in TERMS or name.startswith("data.")}
        terms = tuple((name, str(value)) for name, value in named.items())
        found.append(KeptCounts(f"in training, after step {last.step}", terms, last.evaluation.problems))
    folders = [file.parent for file in (run.path / "evaluation").glob("*/samples.jsonl")]
    asked_for = [folder for folder in folders if not IN_TRAINING.fullmatch(folder.name)]
    return found + [_folder(folder) for folder in sorted(asked_for, reverse=True) if (folder / "config.json").is_file()]


def _title(first: RunRecord, ours: KeptCounts, second: RunRecord, theirs: KeptCounts) -> str:
    where = ours.where if ours.where == theirs.where else f"{ours.where} and {theirs.where}"
    return f"{second.label} minus {first.label} ({where})"


def _paired_level(level: str, changes: Sequence[Change], ks: Sequence[int]) -> PairedLevel:
    first = {k: [pass_at_k(c.n, c.first, k) for c in changes] for k in ks}
    second = {k: [pass_at_k(c.n, c.second, k) for c in changes] for k in ks}
    differences = {k: [b - a for a, b in zip(first[k], second[k], strict=True)] for k in ks}
    return PairedLevel(
        level=level,
        n_problems=len(changes),
        first={k: sum(first[k]) / len(changes) for k in ks},
        second={k: sum(second[k]) / len(changes) for k in ks},
        difference={k: bootstrap_mean(differences[k], lowest=-1.0) for k in ks},
    )


def _folder(folder: Path) -> KeptCounts:
    """The counts in a folder of `expo-lite eval`."""
    settings = read_json(folder / "config.json").get("settings", {})
    terms = tuple((name, str(value)) for name, value in flat(settings) if name not in IDENTITY)
    levels: dict[str, Level | None] = {}
    greedy: dict[str, bool] = {}
    right, n = Counter[str](), Counter[str]()
    for row in JsonLines(folder / "samples.jsonl").read():
        name = row["problem_id"]
        levels[name] = row["level"]
        if row["kind"] == "greedy":
            greedy[name] = bool(row["correct"])
        else:
            right[name] += bool(row["correct"])
            n[name] += 1
    problems = (ProblemResult(name, levels[name], greedy.get(name, False), right[name], n[name]) for name in n)
    return KeptCounts(f"evaluation/{folder.name}", terms, tuple(problems))


def _word(level: Level | None) -> str | None:
    return None if level is None else str(level)
