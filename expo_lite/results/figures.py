"""Turn graded completions into the figures of an evaluation, by level and by subject."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from expo_lite.grading.reading.normalise import normalise, text_key
from expo_lite.records import Level, Problem, by_level
from expo_lite.results.statistics import Estimate, ks_up_to, majority, over_problems, pass_at_k
from expo_lite.run.metrics import mean


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded completion."""

    correct: bool
    reason: str
    answer: str | None
    truncated: bool
    n_tokens: int
    valid: bool | None = None
    """The steps of a right one are right too; None where the task cannot tell."""


@dataclass(frozen=True)
class GradedProblem:
    """One problem with its graded completions: the greedy one, and those at a temperature."""

    problem: Problem
    greedy: Sample
    samples: tuple[Sample, ...]

    @property
    def n_correct(self) -> int:
        """The number of right samples."""
        return sum(sample.correct for sample in self.samples)

    @property
    def n_valid(self) -> int | None:
        """The number of right samples whose steps are right too; None where the task cannot tell."""
        right = [sample.valid for sample in self.samples if sample.correct]
        return None if None in right else sum(map(bool, right))

    @cached_property
    def votes(self) -> tuple[str | None, ...]:
        """The samples' answers in one spelling, as they are counted for a majority; None casts no vote."""
        return tuple(None if s.answer is None else text_key(normalise(s.answer)) for s in self.samples)

    def pass_at(self, k: int) -> float:
        """Unbiased pass@k of this problem."""
        return pass_at_k(len(self.samples), self.n_correct, k)

    def majority_at(self, k: int) -> float:
        """maj@k of this problem: the vote of its first k samples."""
        return majority(self.votes[:k], [sample.correct for sample in self.samples[:k]])


@dataclass(frozen=True, slots=True)
class LevelResult:
    """The figures of the problems of one level, of "all", or of one subject.

    `pass_at` and `maj_at` are by k; `avg` is the mean over all samples (avg@n). Rates, `mean_tokens` and `reasons`
    (verdicts, counted) are of the samples, not of the greedy completions; `no_answer_rate` includes truncated ones.
    `frac_all_wrong` is a share of the problems. `valid_rate` counts right samples whose steps are right too; it is None
    where the task cannot tell, or none is right.
    """

    level: str
    n_problems: int
    n_samples: int
    greedy: Estimate
    avg: Estimate
    pass_at: dict[int, Estimate]
    maj_at: dict[int, Estimate]
    frac_all_wrong: float
    truncated_rate: float
    no_answer_rate: float
    mean_tokens: float
    reasons: dict[str, int]
    valid_rate: float | None = None

    @property
    def all_wrong(self) -> Estimate:
        """`frac_all_wrong` with its interval."""
        n_all_wrong = round(self.frac_all_wrong * self.n_problems)
        return over_problems([1.0] * n_all_wrong + [0.0] * (self.n_problems - n_all_wrong))


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """The counts of one problem, so that two evaluations can be compared problem by problem."""

    problem_id: str
    level: Level | None
    greedy: bool
    n_correct: int
    n: int
    n_valid: int | None = None
    """Right ones whose steps are right too; None where the task cannot tell."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one policy, level by level ("all" last, where there is more than one) and subject by subject."""

    levels: tuple[LevelResult, ...]
    temperature: float
    subjects: tuple[LevelResult, ...] = ()
    problems: tuple[ProblemResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """The figures by name, without intervals: `NAME` of all problems, `NAME/level/LEVEL` of one level."""
        values: dict[str, float] = {}
        for row in self.levels:
            end = f"/level/{row.level}" if row is not self.levels[-1] else ""
            figures = {"greedy": row.greedy.value, "avg": row.avg.value}
            figures |= {f"pass_at_{k}": estimate.value for k, estimate in row.pass_at.items()}
            figures |= {f"maj_at_{k}": estimate.value for k, estimate in row.maj_at.items()}
            rates = ("frac_all_wrong", "truncated_rate", "no_answer_rate", "mean_tokens")
            figures |= {name: getattr(row, name) for name in rates}
            figures |= {} if row.valid_rate is None else {"valid_rate": row.valid_rate}
            values |= {f"{name}{end}": value for name, value in figures.items()}
        return values


def evaluation_of(measured: Sequence[GradedProblem], temperature: float) -> Evaluation:
    """All figures of one policy, for each k of `ks_up_to`."""
    subjects = sorted({m.problem.subject for m in measured if m.problem.subject is not None})
    return Evaluation(
        tuple(level_result(name, members) for name, members in by_level(measured, lambda m: m.problem.level)),
        temperature,
        tuple(level_result(name, [m for m in measured if m.problem.subject == name]) for name in subjects),
        tuple(
            ProblemResult(
                m.problem.problem_id, m.problem.level, m.greedy.correct, m.n_correct, len(m.samples), m.n_valid
            )
            for m in measured
        ),
    )


def level_result(level: str, measured: Sequence[GradedProblem]) -> LevelResult:
    """The figures of one set of problems."""
    samples = [sample for m in measured for sample in m.samples]
    ks = ks_up_to(len(measured[0].samples))
    n_valid = [m.n_valid for m in measured]
    checked = any(m.n_correct for m in measured) and None not in n_valid
    return LevelResult(
        level=level,
        n_problems=len(measured),
        n_samples=len(measured[0].samples),
        greedy=over_problems([float(m.greedy.correct) for m in measured]),
        avg=over_problems([m.pass_at(1) for m in measured]),
        pass_at={k: over_problems([m.pass_at(k) for m in measured]) for k in ks},
        maj_at={k: over_problems([m.majority_at(k) for m in measured]) for k in ks},
        frac_all_wrong=mean(m.n_correct == 0 for m in measured),
        truncated_rate=mean(sample.truncated for sample in samples),
        no_answer_rate=mean(sample.answer is None for sample in samples),
        mean_tokens=mean(sample.n_tokens for sample in samples),
        reasons=dict(sorted(Counter(sample.reason for sample in samples).items())),
        valid_rate=sum(n or 0 for n in n_valid) / len(samples) if checked else None,
    )
