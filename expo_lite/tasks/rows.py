"""A task out of Python objects: rows as a JSON Lines file has them, and, if wanted, a judge of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expo_lite.errors import ConfigError, DataError
from expo_lite.records import Problem, Verdict
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.files import DataRow
from expo_lite.tasks.sources import task_of_splits

if TYPE_CHECKING:
    from expo_lite.grading import Grader

Correct = Callable[[Problem, str], bool | float]
"""The verdict on a completion: whether it solves the problem, or its reward from 0 to 1, where 1 alone is right."""


def task_from_rows(
    rows: Iterable[Problem | Mapping[str, Any]],
    *,
    test_rows: Iterable[Problem | Mapping[str, Any]] = (),
    correct: Correct | None = None,
    grader: Grader | None = None,
    name: str = "rows",
    options: TaskOptions | None = None,
) -> FixedTask:
    """Make a task that `train` and `evaluate` take.

    Args:
        rows: problems, or mappings with a question and an answer, and perhaps level, subject, expert_chain: what a
            line of `jsonl:PATH` has.
        test_rows: held-out problems; without any, one question text in ten is held out.
        correct: judges a completion in place of a comparison of answers: True or False, or a reward from 0 to 1. Only
            a reward of 1 is right: pass@k, the gate and the filters of explanations ask for that; a wrong completion's
            reward counts in GRPO's advantages, in a group of wrong ones too. It runs in this process and without a
            limit on its time. Where it raises, the completion counts as wrong, with the verdict "raised", and the first
            time a RuntimeWarning says why.
        grader: compares answers; by default a new one.
        name: the task's name in messages and in the run folder.
        options: field names, as `--fields` gives them.

    Raises:
        DataError: a row lacks a question or an answer, or a problem_id comes twice.
    """
    by_split: dict[str, list[DataRow]] = {"train": [], "test": []}
    for split, some in (("train", rows), ("test", test_rows)):
        for i, row in enumerate(some):
            where = f"{name}, {split} row {i}"
            if not isinstance(row, Problem | Mapping):
                raise DataError(f"{where}: expected a Problem or a mapping, got {type(row).__name__}.")
            by_split[split].append(DataRow(where, {}, row) if isinstance(row, Problem) else DataRow(where, row))
    if not any(by_split.values()):
        raise DataError(f"Task {name!r} has no rows.")
    if grader is None:
        from expo_lite.grading import Grader

        grader = Grader()
    task = task_of_splits(name, by_split, grader, options or TaskOptions(), prefix=name)
    return task if correct is None else JudgedTask(**vars(task), correct=correct)


@dataclass(frozen=True, kw_only=True)
class JudgedTask(FixedTask):
    """Problems whose completions are judged by a function."""

    correct: Correct

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Ask the function; a truncated completion is wrong without being asked about."""
        if truncated:
            return Verdict(False, "truncated", "truncated")
        try:
            judged = self.correct(problem, completion)
        except Exception as error:  # noqa: BLE001 (anybody's code; a night's run must not end on one completion)
            warnings.warn(
                f"The judge of task {self.name!r} raised {error!r} on problem {problem.problem_id!r}; such completions "
                "count as wrong, with the verdict 'raised'.",
                RuntimeWarning,
                stacklevel=2,
            )
            return Verdict(False, "raised", "function")
        if not isinstance(judged, (bool, int, float)) or not 0 <= judged <= 1:
            raise ConfigError(
                f"The judge of task {self.name!r} must return True, False or a reward from 0 to 1, not {judged!r} "
                f"(problem {problem.problem_id!r})."
            )
        if judged == 1:
            return Verdict(True, "equal", "function")
        return Verdict(False, "partial" if judged else "different", "function", partial=float(judged))
