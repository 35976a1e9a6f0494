"""What a plan's finished runs measured, and how they differ: estimates that carry seeds and problems; free of torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expo_lite.records import ALL, level_order
from expo_lite.results.figures import Evaluation
from expo_lite.results.statistics import Estimate, in_quadrature, over_seeds, over_seeds_and_problems, pass_at_k
from expo_lite.run.metrics import mean

BASE = "base"
"""The policy before training, where a run's name is asked for."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """One finished run: its evaluations before and after training, and the rows of its metrics.jsonl."""

    before: Evaluation
    after: Evaluation
    metrics: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured: runs by name, then seed; `diagnoses` has the "all" row of diagnosis.json by seed.

    Whatever is asked of a run that is not there, of a level that it has not, or of two runs that share no seed or were
    asked other problems, raises KeyError.
    """

    runs: Mapping[str, Mapping[int, RunResult]]
    diagnoses: Mapping[int, Mapping[str, Any]]
    k: int
    """Of pass@k."""
    base_names: Mapping[str, str] = field(default_factory=dict)
    """By run: the name of the policy that it starts from, where runs start from several; else that is BASE."""

    @property
    def finished(self) -> list[str]:
        """The names of the runs that have finished with some seed."""
        return [name for name, by_seed in self.runs.items() if by_seed]

    @property
    def befores(self) -> dict[str, Evaluation]:
        """The evaluations of the policies that finished runs start from, by name."""
        return {self.base_of(name): self._before(name) for name in reversed(self.finished)}

    @property
    def bases(self) -> list[str]:
        """Their names, in the order of the runs."""
        return list(dict.fromkeys(map(self.base_of, self.finished)))

    def base_of(self, run: str) -> str:
        """The name of the policy that a run starts from."""
        return self.base_names.get(run, BASE)

    @property
    def levels(self) -> list[str]:
        """The levels that any run has, the hardest last; of tasks without levels, "all"."""
        found = {row.level for name in self.finished for row in self._before(name).levels}
        return sorted(found - {ALL}, key=level_order) or [ALL]

    @property
    def columns(self) -> list[str]:
        """What runs are compared at: every level, and "all" where that is not the one level again."""
        levels, own = self.levels, [[row.level for row in self._before(name).levels] for name in self.finished]
        return levels if all(each == levels for each in own) else [*levels, ALL]

    @property
    def hardest(self) -> str:
        """The hardest level."""
        return self.levels[-1]

    def accuracy(self, run: str, level: str, k: int | None = None) -> Estimate:
        """pass@k of a run after training, or of a base, at a level or at "all"."""
        if run == BASE or run not in self.runs:
            return over_seeds_and_problems([_solved(self.befores[run], level, k or self.k)])
        return over_seeds_and_problems([_solved(own.after, level, k or self.k) for own in self._of(run).values()])

    def difference(self, ours: str, theirs: str, level: str) -> Estimate:
        """pass@k of one run minus another's (or that of its own base), paired by seed and problem."""
        own, other = self._of(ours), self._of(ours if theirs == BASE else theirs)
        seeds = [seed for seed in own if seed in other]
        if not seeds:
            raise KeyError(theirs)
        return over_seeds_and_problems(
            [
                _differences(
                    own[seed].after, other[seed].before if theirs == BASE else other[seed].after, level, self.k
                )
                for seed in seeds
            ],
            lowest=-1.0,
        )

    def shift(self, run: str, name: str) -> Estimate:
        """By how much a metric's mean over the last quarter of the steps lies above that over the first, over seeds."""
        pairs = [change(own.metrics, name) for own in self._of(run).values()]
        return over_seeds([last - first for first, last in pairs])

    def total(self, run: str, name: str) -> Estimate:
        """A metric's sum over a run's steps, over seeds."""
        return over_seeds([sum(row.get(name, 0.0) for row in own.metrics) for own in self._of(run).values()])

    def diagnosed(self, figure: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> Estimate:
        """A figure of the diagnoses; its interval carries the seeds', and the problems' as each diagnosis has it."""
        found = [figure(row) for row in self.diagnoses.values()]
        estimates = [_estimate(each) for each in found if each is not None and each["value"] is not None]
        if not estimates or len(estimates) < len(found):
            raise KeyError("diagnosis")
        seeds = over_seeds([estimate.value for estimate in estimates])
        problems = Estimate(*(mean(getattr(e, end) for e in estimates) for end in ("value", "low", "high")))
        return in_quadrature([seeds, problems], seeds.value)

    def n_seeds(self, *runs: str) -> int:
        """How many seeds all of these runs have."""
        return len(set.intersection(*(set(self.runs.get(run, ())) for run in runs if run != BASE)))

    def _before(self, run: str) -> Evaluation:
        return next(iter(self.runs[run].values())).before

    def _of(self, run: str) -> Mapping[int, RunResult]:
        if not self.runs.get(run):
            raise KeyError(run)
        return self.runs[run]


def minus(ours: Estimate, theirs: Estimate) -> Estimate:
    """The difference of two figures that are not paired."""
    turned = Estimate(-theirs.value, -theirs.high, -theirs.low)
    return in_quadrature([ours, turned], ours.value - theirs.value)


def change(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """A metric's mean over the first and over the last quarter of a run's steps that have it; KeyError if none has."""
    values = [row[name] for row in metrics if name in row]
    if not values:
        raise KeyError(name)
    quarter = max(len(values) // 4, 1)
    return mean(values[:quarter]), mean(values[-quarter:])


def _estimate(figure: Mapping[str, Any]) -> Estimate:
    """A figure as diagnosis.json has it: null is an end that is open, as a single problem leaves both."""
    low, high = figure["low"], figure["high"]
    return Estimate(figure["value"], -math.inf if low is None else low, math.inf if high is None else high)


def _differences(ours: Evaluation, theirs: Evaluation, level: str, k: int) -> list[float]:
    """By how much pass@k of each problem differs; KeyError where the problems are not the same."""
    if [p.problem_id for p in ours.problems] != [p.problem_id for p in theirs.problems]:
        raise KeyError(level)
    return [a - b for a, b in zip(_solved(ours, level, k), _solved(theirs, level, k), strict=True)]


def _solved(evaluation: Evaluation, level: str, k: int) -> list[float]:
    """pass@k of every problem of a level, in the evaluation's order; of "all", of every problem.

    Raises KeyError where there is none, or where one was not sampled k times.
    """
    found = [p for p in evaluation.problems if level in (ALL, str(p.level))]
    if not found or min(p.n for p in found) < k:
        raise KeyError(level)
    return [pass_at_k(p.n, p.n_correct, k) for p in found]
