"""The interface of tasks: problems by split and level, and a verdict on a completion."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from rich.console import Console

from expo_lite.errors import DataError
from expo_lite.grading import Grader
from expo_lite.grading.arithmetic import check_arithmetic
from expo_lite.records import Level, Problem, Verdict
from expo_lite.tasks.splits import select
from expo_lite.terminal import say

Split = Literal["train", "test"]

_NO_TRAIN = (
    "It is a test set: measure on it with --split test. To train on a part of a file of problems, name it as "
    "--task jsonl:FILE: 10% is held out."
)


class Task(Protocol):
    """A source of graded problems."""

    @property
    def name(self) -> str:
        """The name as typed on the command line."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels in the data: numbers ascending, then words by alphabet; the last is the hardest; () for none."""

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """Return the problems of a split, in a fixed order.

        Args:
            split: which one.
            levels: () for all.
            limit: at most so many of each level, or in all where the data has no levels.
            seed: picks which problems a limit leaves, and nothing else.

        Raises:
            ConfigError: the task lacks a level, or the limit is below 1.
            DataError: the data has nothing for the split.
        """

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge a completion by its final answer; a truncated one has none."""


@runtime_checkable
class ChecksSteps(Protocol):
    """A task that can tell whether a chain is right step by step, which its answer alone does not say."""

    def check_steps(self, problem: Problem, completion: str) -> bool:
        """Return whether every step of the chain is right."""


def steps_right(task: Task, problem: Problem, chain: str) -> bool | None:
    """Check the steps of a chain that ends in the right answer, as the task does, else by its arithmetic.

    Returns:
        None where the task cannot check steps, and `check_arithmetic` cannot tell.
    """
    if isinstance(task, ChecksSteps):
        return task.check_steps(problem, chain)
    return check_arithmetic(problem.question, problem.answer, chain)


@dataclass(frozen=True)
class FixedTask:
    """A task whose problems are all known: read from a file, a folder or the hub."""

    name: str
    levels: tuple[Level, ...]
    train: tuple[Problem, ...]
    test: tuple[Problem, ...]
    grader: Grader
    n_dropped: int = 0
    """Train problems that were left out because their question is in the test split."""
    notes: tuple[str, ...] = ()
    """Lines to print: a summary with the first problem, and warnings of what is odd."""

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """Return the problems of a split, in the order of the file (see `Task.problems`)."""
        pool = self.train if split == "train" else self.test
        if not pool:
            hint = f"All {self.n_dropped} are in the test split too." if self.n_dropped else _NO_TRAIN
            if split == "test":
                hint = "Name a file of test problems with --test-file, or train without any: --eval-problems 0."
            raise DataError(f"Task {self.name!r} has no {split} problems. {hint}")
        return select(pool, task=self.name, known_levels=self.levels, levels=levels, limit=limit, seed=seed)

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge a completion by its final answer."""
        return self.grader.grade(problem.answer, completion, truncated=truncated)


def say_read(task: Task, console: Console) -> None:
    """Print what was read for a task, and what is odd about it."""
    for line in task.notes if isinstance(task, FixedTask) else ():
        say(console, line)
