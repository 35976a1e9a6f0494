"""Two policies on the same held-out problems: paired differences of pass@k, and which problems were won and lost."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expo_lite.records import Level, by_level
from expo_lite.results.figures import ProblemResult
from expo_lite.results.record import RunRecord, read_json
from expo_lite.results.statistics import Estimate, bootstrap_mean, pass_at_k
from expo_lite.run.files import JsonLines
from expo_lite.settings.schema import flat

IDENTITY = ("model", "bits", "backend", "sampler", "adapter_sha256")
"""What tells policies apart in the config.json of an evaluation folder; all else must be equal for a pairing."""

IN_TRAINING = re.compile(r"step-\d+")
"""Folders of samples that belong to an evaluation in training, whose counts are in the file beside them."""
TERMS = ("task", "evaluation.eval_temperature", "evaluation.eval_top_p")
"""What must be equal for a pairing of evaluations in training; that problems and their numbers of samples are is looked
at one by one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One problem before and after, or in one run and the other."""

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
class Kept:
    """Counts by problem that a run has kept: in training, or by `expo-lite eval`."""

    where: str
    terms: tuple[tuple[str, str], ...]
    """On what was measured and how: everything that is not the policy's own."""
    problems: tuple[ProblemResult, ...]


def pair(first: Sequence[ProblemResult], second: Sequence[ProblemResult]) -> list[Change]:
    """The problems that both have, with as many samples in both, in the order of the first."""
    others = {result.problem_id: result for result in second}
    return [
        Change(own.problem_id, _word(own.level), own.n, own.n_correct, others[own.problem_id].n_correct)
        for own in first
        if own.problem_id in others and others[own.problem_id].n == own.n
    ]


def paired_levels(changes: Sequence[Change], ks: Sequence[int]) -> list[PairedLevel]:
    """By level, then of all problems where there is more than one level; the interval is a bootstrap over problems."""
    return [_paired_level(level, own, ks) for level, own in by_level(changes, lambda change: change.level)]


def ks_of(changes: Sequence[Change], wanted: Sequence[int]) -> list[int]:
    """Those of the wanted k that every problem has samples for; 1 at least."""
    fewest = min(change.n for change in changes)
    return sorted({k for k in wanted if k <= fewest} | {1})


def won(changes: Sequence[Change]) -> list[Change]:
    """Never right in the first, and right at least once in the second; the surest first."""
    return sorted((c for c in changes if c.first == 0 < c.second), key=lambda c: -c.second / c.n)


def lost(changes: Sequence[Change]) -> list[Change]:
    """Right at least once in the first, and never in the second; the surest first."""
    return sorted((c for c in changes if c.second == 0 < c.first), key=lambda c: -c.first / c.n)


def kept(run: RunRecord) -> list[Kept]:
    """All counts by problem in a run folder: of its last evaluation, then of evaluation folders, newest first.

    Raises:
        CheckpointError: a file is damaged.
    """
    found = []
    in_training = [evaluated for evaluated in run.evaluated if evaluated.evaluation.problems]
    if in_training:
        last = in_training[-1]
        terms = tuple(
            (name, str(value)) for name, value in run.settings.items() if name in TERMS or name.startswith("data.")
        )
        found.append(Kept(f"in training, after step {last.step}", terms, last.evaluation.problems))
    folders = [file.parent for file in (run.path / "evaluation").glob("*/samples.jsonl")]
    asked_for = [folder for folder in folders if not IN_TRAINING.fullmatch(folder.name)]
    return found + [_folder(folder) for folder in sorted(asked_for, reverse=True) if (folder / "config.json").is_file()]


def best_pairing(first: RunRecord, second: RunRecord) -> tuple[Kept, Kept, list[Change]] | None:
    """The counts of both runs on equal terms that have most problems in common; None where there are none."""
    candidates = [
        (own, other, pair(own.problems, other.problems))
        for own in kept(first)
        for other in kept(second)
        if own.terms == other.terms
    ]
    candidates = [found for found in candidates if found[2]]
    return max(candidates, key=lambda found: len(found[2])) if candidates else None


def _paired_level(level: str, changes: Sequence[Change], ks: Sequence[int]) -> PairedLevel:
    first = {k: [pass_at_k(c.n, c.first, k) for c in changes] for k in ks}
    second = {k: [pass_at_k(c.n, c.second, k) for c in changes] for k in ks}
    return PairedLevel(
        level=level,
        n_problems=len(changes),
        first={k: sum(first[k]) / len(changes) for k in ks},
        second={k: sum(second[k]) / len(changes) for k in ks},
        difference={
            k: bootstrap_mean([b - a for a, b in zip(first[k], second[k], strict=True)], lowest=-1.0) for k in ks
        },
    )


def _folder(folder: Path) -> Kept:
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
    return Kept(f"evaluation/{folder.name}", terms, tuple(problems))


def _word(level: Level | None) -> str | None:
    return None if level is None else str(level)
