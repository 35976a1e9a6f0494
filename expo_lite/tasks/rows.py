"""A task out of Python objects: rows as a JSON Lines file has them, and, if wanted, a judge of one's own."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem, Verdict
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.schema import typed
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.files import DataRow, Row
from expo_lite.tasks.sources import task_of_splits

Correct = Callable[[Problem, str], SupportsFloat | None]
"""The verdict on a completion: True, False or a reward from 0 to 1, where 1 alone is right; None for no reward."""


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
            limit on its time. Where it raises, or returns None or NaN, the completion counts as wrong, with the verdict
            "raised" or "no_reward", and a RuntimeWarning names the problem.
        grader: compares answers; by default a new one.
        name: the task's name in messages and in the run folder.
        options: field names, as `--fields` gives them.

    Raises:
        DataError: a row lacks a question or an answer, a problem_id comes twice, or no reply could match most answers.
    """
    by_split: dict[str, list[Row]] = {"train": [], "test": []}
    for split, some in (("train", rows), ("test", test_rows)):
        for i, row in enumerate(some):
            where = f"{name}, {split} row {i}"
            if not isinstance(row, Problem | Mapping):
                raise DataError(f"{where}: expected a Problem or a mapping, got {type(row).__name__}.")
            by_split[split].append(DataRow(where, {}, row) if isinstance(row, Problem) else DataRow(where, row))
    if not any(by_split.values()):
        raise DataError(f"Task {name!r} has no rows.")
    options, is_judged = typed(options or TaskOptions()), correct is not None
    grader = grader or Grader(rounding=options.rounding)
    task = task_of_splits(name, by_split, grader, options, prefix=name, is_judged=is_judged)
    return task if correct is None else JudgedTask(**vars(task), correct=correct)


@dataclass(frozen=True, kw_only=True)
class JudgedTask(FixedTask):
    """Problems whose completions are judged by a function."""

    correct: Correct

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Ask the function; a truncated completion is wrong without being asked about."""
        if truncated:
            return Verdict(False, "truncated", "truncated")
        where = f"problem {problem.problem_id!r}"
        try:
            judged = self.correct(problem, completion)
            reward = float(judged) if isinstance(judged, SupportsFloat) else None  # numbers of numpy and torch too
        except Exception as error:  # noqa: BLE001 (anybody's code; a night's run must not end on one completion)
            return self._no_reward("raised", f"raised {error!r} on {where}")
        if judged is None or reward != reward:  # NaN
            return self._no_reward("no_reward", f"returned {judged!r} for {where}")
        if reward is not None and abs(reward - 1) < 1e-6:  # a sum of floats
            return Verdict(True, "equal", "function")
        if reward is None or not 0 <= reward < 1:
            raise ConfigError(
                f"The judge of task {self.name!r} must return True, False or a reward from 0 to 1, not {judged!r} "
                f"({where})."
            )
        return Verdict(False, "partial" if reward else "different", "function", partial=reward)

    def _no_reward(self, reason: str, what: str) -> Verdict:
        """Warn that the judge gave no reward."""
        message = f"The judge of task {self.name!r} {what}; such completions count as wrong, verdict {reason!r}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return Verdict(False, reason, "function")
