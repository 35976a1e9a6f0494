"""What every task offers: problems by split and level, and a grade for a completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from expo_lite.errors import DataError
from expo_lite.records import Level, Problem, Verdict
from expo_lite.tasks.splits import select

if TYPE_CHECKING:
    from expo_lite.grading import Grader

Split = Literal["train", "test"]


class Task(Protocol):
    """A source of graded problems; the last of `levels` is the hardest, and () means that the data has none."""

    @property
    def name(self) -> str:
        """The name as typed on the command line."""

    @property
    def license(self) -> str:
        """Under what licence the problems are."""

    @property
    def source(self) -> str:
        """Where the problems come from, and where the expert chains do."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels in the data: numbers ascending, then words by alphabet."""

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """The problems of a split, in a fixed order.

        `levels` () means all. `limit` counts problems a level where the data has levels, else problems in all; `seed`
        only picks which ones a limit leaves. Raises ConfigError for levels or limits that cannot be, DataError where
        the data has nothing for the split.
        """

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge a completion by its final answer; a truncated one has none."""


@runtime_checkable
class ChecksSteps(Protocol):
    """A task that can tell whether a chain is right step by step, which its answer alone does not say."""

    def check_steps(self, problem: Problem, completion: str) -> str:
        """What is wrong with the chain, in one word; "valid" if nothing is."""


@dataclass(frozen=True)
class FixedTask:
    """A task whose problems are all known: read from a file, a folder or the hub.

    `n_dropped` is how many train problems were left out because their question is in the test split. `no_train` and
    `no_test` tell the user what to do where that split is empty.
    """

    name: str
    license: str
    source: str
    levels: tuple[Level, ...]
    train: tuple[Problem, ...]
    test: tuple[Problem, ...]
    grader: Grader
    n_dropped: int = 0
    no_train: str = ""
    no_test: str = ""

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """The problems of a split, in the order of the file (see `Task.problems`)."""
        pool = self.train if split == "train" else self.test
        if not pool:
            hint = self.no_train if split == "train" else self.no_test
            raise DataError(f"Task {self.name!r} has no {split} problems. {hint}".strip())
        return select(pool, task=self.name, known_levels=self.levels, levels=levels, limit=limit, seed=seed)

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge a completion by its final answer."""
        return self.grader.grade(problem.answer, completion, truncated=truncated)
