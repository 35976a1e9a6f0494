"""Figures of a plan's finished runs, and their differences: estimates that carry seeds and problems; no torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expo_lite.records import ALL
from expo_lite.results.figures import Evaluation
from expo_lite.results.statistics import (
    Estimate,
    in_quadrature,
    over_problems,
    over_seeds_and_problems,
    pass_at_k,
    student,
)
from expo_lite.run.metrics import mean

BASE = "base"
"""Names the policy before training in place of a run; no run has this name."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """One finished run: its evaluations before and after training, and the rows of its metrics.jsonl."""

    before: Evaluation
    after: Evaluation
    metrics: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a plan: runs by name, then seed; `diagnoses` has the "all" row of diagnosis.json by seed.

    All runs start from the same policy and are asked the same problems. A missing run, level or metric raises KeyError,
    and so do two runs that share no seed.
    """

    runs: Mapping[str, Mapping[int, RunResult]]
    diagnoses: Mapping[int, Mapping[str, Any]]
    k: int
    """The k of pass@k."""

    @property
    def before(self) -> Evaluation:
        """The evaluation of the policy before training."""
        return next(result.before for by_seed in self.runs.values() for result in by_seed.values())

    @property
    def columns(self) -> list[str]:
        """Every level, the hardest last, then "all" where there are several."""
        return [row.level for row in self.before.levels]

    @property
    def levels(self) -> list[str]:
        """The levels, the hardest last; of tasks without levels, "all"."""
        return [level for level in self.columns if level != ALL] or [ALL]

    @property
    def hardest(self) -> str:
        """The hardest level."""
        return self.levels[-1]

    @property
    def knows_steps(self) -> bool:
        """Tell whether the task has checked the steps of every right sample."""
        after = [result.after for by_seed in self.runs.values() for result in by_seed.values()]
        right = [p.n_valid for each in (self.before, *after) for p in each.problems if p.n_correct]
        return bool(right) and None not in right

    def accuracy(self, run: str, level: str, k: int | None = None) -> Estimate:
        """pass@k of a run after training, or of the base, at a level or at "all"."""
        return over_seeds_and_problems([_solved(each, level, k or self.k) for each in self._measured(run)])

    def by_seed(self, run: str, level: str, k: int) -> list[float]:
        """The same of each seed alone, in their order: where a run in ten collapses, no interval of three shows it."""
        return [mean(_solved(each, level, k)) for each in self._measured(run)]

    def valid(self, run: str, level: str) -> Estimate:
        """The share of samples that are right in every step, of a run after training or of the base (`knows_steps`)."""
        return over_seeds_and_problems([_valid(each, level) for each in self._measured(run)])

    def difference(self, ours: str, theirs: str, level: str, k: int | None = None) -> Estimate:
        """pass@k of one run minus another's (or the base's), paired by seed and problem."""
        return self._paired(ours, theirs, lambda each: _solved(each, level, k or self.k))

    def valid_difference(self, ours: str, theirs: str, level: str) -> Estimate:
        """The share of samples that are right in every step, likewise (`knows_steps`)."""
        return self._paired(ours, theirs, lambda each: _valid(each, level))

    def _paired(self, ours: str, theirs: str, measured: Callable[[Evaluation], list[float]]) -> Estimate:
        mine, other = self.runs[ours], self.runs[ours if theirs == BASE else theirs]
        seeds = [seed for seed in mine if seed in other]
        if not seeds:
            raise KeyError(theirs)
        pairs = [(mine[seed].after, other[seed].before if theirs == BASE else other[seed].after) for seed in seeds]
        each = [[x - y for x, y in zip(measured(a), measured(b), strict=True)] for a, b in pairs]
        return over_seeds_and_problems(each, lowest=-1.0)

    def shift(self, run: str, name: str) -> Estimate:
        """A metric's mean over the last quarter of the steps minus that over the first, over seeds; open for one."""
        pairs = [change(result.metrics, name) for result in self.runs[run].values()]
        return over_problems([last - first for first, last in pairs], lowest=-math.inf, highest=math.inf)

    def total(self, run: str, name: str) -> Estimate:
        """A metric's sum over a run's steps: the mean over seeds, with the lowest and the highest as its ends."""
        sums = [sum(row.get(name, 0.0) for row in result.metrics) for result in self.runs[run].values()]
        return Estimate(mean(sums), min(sums), max(sums))

    def average(self, run: str, name: str) -> Estimate | None:
        """A metric's mean over a run's steps: the mean over seeds, with its ends as in `total`; None if none has it."""
        each = [[row[name] for row in result.metrics if name in row] for result in self.runs[run].values()]
        means = [mean(values) for values in each if values]
        return Estimate(mean(means), min(means), max(means)) if means else None

    def diagnosed(self, figure: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> Estimate:
        """A figure of the diagnoses; its interval carries the seeds', and the problems' as each diagnosis has it."""
        figures = [figure(row) for row in self.diagnoses.values()]
        estimates = [_estimate(each) for each in figures if each is not None and each["value"] is not None]
        if not estimates or len(estimates) < len(figures):
            raise KeyError("diagnosis")
        seeds = student([estimate.value for estimate in estimates])
        problems = Estimate(*(mean(getattr(e, end) for e in estimates) for end in ("value", "low", "high")))
        return in_quadrature([seeds, problems], seeds.value)

    def _measured(self, run: str) -> list[Evaluation]:
        return [self.before] if run == BASE else [result.after for _, result in sorted(self.runs[run].items())]

    def n_seeds(self, *runs: str) -> int:
        """Count the seeds that all of these runs have."""
        return len(set.intersection(*(set(self.runs.get(run, ())) for run in runs if run != BASE)))


def change(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """A metric's mean over the first and over the last quarter of a run's steps that have it; KeyError if none has."""
    values = [row[name] for row in metrics if name in row]
    if not values:
        raise KeyError(name)
    quarter = max(len(values) // 4, 1)
    return mean(values[:quarter]), mean(values[-quarter:])


def _estimate(figure: Mapping[str, Any]) -> Estimate:
    """A figure of diagnosis.json, where null is an open end: a single problem leaves both open."""
    low, high = figure["low"], figure["high"]
    return Estimate(figure["value"], -math.inf if low is None else low, math.inf if high is None else high)


def _valid(evaluation: Evaluation, level: str) -> list[float]:
    return [(p.n_valid or 0) / p.n for p in evaluation.problems if level in (ALL, str(p.level))]


def _solved(evaluation: Evaluation, level: str, k: int) -> list[float]:
    """pass@k of every problem of a level, or of all, in the evaluation's order; KeyError if there is none."""
    problems = [p for p in evaluation.problems if level in (ALL, str(p.level))]
    if not problems:
        raise KeyError(level)
    return [pass_at_k(p.n, p.n_correct, k) for p in problems]
