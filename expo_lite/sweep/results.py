"""What a plan's finished runs measured, and how they differ: estimates that carry seeds and problems; free of torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expo_lite.measure.figures import Evaluation
from expo_lite.measure.statistics import Estimate, in_quadrature, over_seeds, over_seeds_and_problems, pass_at_k
from expo_lite.records import ALL
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

    Whatever is asked of a run that is not there, or of two runs that share no seed, raises KeyError.
    """

    runs: Mapping[str, Mapping[int, RunResult]]
    diagnoses: Mapping[int, Mapping[str, Any]]
    k: int
    """Of pass@k."""

    @property
    def any_run(self) -> RunResult:
        """A finished run, for what is the same in all."""
        return next(run for by_seed in self.runs.values() for run in by_seed.values())

    @property
    def finished(self) -> list[str]:
        """The names of the runs that have finished with some seed."""
        return [name for name, by_seed in self.runs.items() if by_seed]

    @property
    def levels(self) -> list[str]:
        """The levels, the hardest last; of a task without levels, "all"."""
        return [row.level for row in self.any_run.before.levels if row.level != ALL] or [ALL]

    @property
    def hardest(self) -> str:
        """The hardest level."""
        return self.levels[-1]

    def accuracy(self, run: str, level: str, k: int | None = None) -> Estimate:
        """pass@k of a run after training, or of the base, at a level or at "all"."""
        if run == BASE:
            return over_seeds_and_problems([_solved(self.any_run.before, level, k or self.k)])
        return over_seeds_and_problems([_solved(own.after, level, k or self.k) for own in self._of(run).values()])

    def difference(self, ours: str, theirs: str, level: str) -> Estimate:
        """pass@k of one run minus another's (or the base's), paired by seed and problem."""
        own, other = self._of(ours), self._of(ours if theirs == BASE else theirs)
        seeds = [seed for seed in own if seed in other]
        if not seeds:
            raise KeyError(theirs)
        return over_seeds_and_problems(
            [
                [
                    a - b
                    for a, b in zip(
                        _solved(own[seed].after, level, self.k),
                        _solved(other[seed].before if theirs == BASE else other[seed].after, level, self.k),
                        strict=True,
                    )
                ]
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

    def diagnosed(self, figure: Callable[[Mapping[str, Any]], Mapping[str, float] | None]) -> Estimate:
        """A figure of the diagnoses; its interval carries the seeds', and the problems' as each diagnosis has it."""
        found = [figure(row) for row in self.diagnoses.values()]
        estimates = [Estimate(**each) for each in found if each is not None]
        if not estimates or len(estimates) < len(found):
            raise KeyError("diagnosis")
        seeds = over_seeds([estimate.value for estimate in estimates])
        problems = Estimate(*(mean(getattr(e, end) for e in estimates) for end in ("value", "low", "high")))
        return in_quadrature([seeds, problems], seeds.value)

    def n_seeds(self, *runs: str) -> int:
        """How many seeds all of these runs have."""
        return len(set.intersection(*(set(self.runs.get(run, ())) for run in runs if run != BASE)))

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


def _solved(evaluation: Evaluation, level: str, k: int) -> list[float]:
    """pass@k of every problem of a level, in the evaluation's order; of "all", of every problem."""
    found = [p for p in evaluation.problems if level in (ALL, str(p.level))]
    if not found:
        raise KeyError(level)
    return [pass_at_k(p.n, p.n_correct, k) for p in found]
