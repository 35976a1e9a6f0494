"""Where a task's problems come from (the hub, a folder, a file), and the task that their splits make."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expo_lite.errors import ConfigError, DataError
from expo_lite.records import Problem, level_order
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.files import DataRow, HubFiles, configurations, fetch, read_rows, split_files, split_in_name
from expo_lite.tasks.splits import hold_out, without_test_questions

if TYPE_CHECKING:
    from expo_lite.grading import Grader

_NO_TRAIN = (
    "It is a test set: measure on it with --split test. To train on a part of a file of problems, name it as "
    "--task jsonl:FILE: 10% is held out."
)
_NO_TEST = "Name a file of test problems with --test-file."

RowReader = Callable[[DataRow, str], Problem]
SplitFiles = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, slots=True)
class Splits:
    """Train and test without a question in common, and how many train problems were dropped for that."""

    train: tuple[Problem, ...]
    test: tuple[Problem, ...]
    n_dropped: int


def find_files(
    options: TaskOptions, *, hub: HubFiles, instead: str, lone_file: Literal["test", "by name", "hold out"]
) -> SplitFiles:
    """The files of a hub data set by split, from `options.data` if that is given.

    A lone file is the test split, or is if its name says so, or holds out a part. Raises DataError where there is
    nothing to read; `instead` then tells what to fetch and where to put it.
    """
    files: dict[str, list[Path]]
    if options.data is None or options.data.is_dir():
        folder = options.data or fetch(hub, instead=instead)
        _check_config(hub, folder)
        files = split_files(folder, config=hub.config)
    elif options.data.exists():
        is_test = lone_file == "test" or (lone_file == "by name" and split_in_name(Path(options.data.name)) == "test")
        files = {"test" if is_test else "": [options.data]}
    else:
        raise DataError(f"No file or folder {options.data} (--data). {instead}")
    return with_test_file(files, options)


def _check_config(hub: HubFiles, folder: Path) -> None:
    known = configurations(folder)
    if hub.config and known and hub.config not in known:
        raise ConfigError(f"{folder} has no configuration {hub.config!r}; it has {', '.join(known)}.")
    if not hub.config and not hub.all_configs and len(known) > 1:
        raise ConfigError(f"{folder} has several configurations; add one of them to the name: {', '.join(known)}.")


def with_test_file(files: SplitFiles, options: TaskOptions) -> SplitFiles:
    """The same files with `options.test_file`, if given, as the test split."""
    if options.test_file is None:
        return files
    return {"train": files.get("train") or files.get("", ()), "test": (options.test_file,)}


def read_splits(files: SplitFiles, *, prefix: str, read: RowReader, kind: str | None = None) -> Splits:
    """Read the files and make the splits disjoint: train problems whose question is in the test split are dropped.

    Without a test file the validation files are the test split, and without those a fixed 10% is held out. Problems
    are numbered from 0 as `prefix/SPLIT/NUMBER` where they have no identifier. Raises DataError, also for an
    identifier that comes twice.
    """
    seen: set[str] = set()

    def problems(split: str, paths: Sequence[Path]) -> list[Problem]:
        found: list[Problem] = []
        for row in (row for path in paths for row in read_rows(path, kind=kind)):
            problem = read(row, f"{prefix}/{split}/{len(found)}")
            if problem.problem_id in seen:
                raise DataError(f"{row.where}: the problem_id {problem.problem_id!r} comes a second time.")
            seen.add(problem.problem_id)
            found.append(problem)
        return found

    test = problems("test", files.get("test") or files.get("validation", ()))
    return splits_of(
        problems("train", files.get("train", ()) if test else files.get("train") or files.get("", ())), test
    )


def splits_of(train: Sequence[Problem], test: Sequence[Problem]) -> Splits:
    """Splits without a question in common; without test problems a part of the others is held out.

    Raises:
        DataError: an identifier comes twice.
    """
    (problem_id, n), *_ = Counter(problem.problem_id for problem in (*train, *test)).most_common(1) or [("", 0)]
    if n > 1:
        raise DataError(f"The problem_id {problem_id!r} comes {n} times.")
    if not test:
        kept, test = hold_out(train)
        return Splits(tuple(kept), tuple(test), 0)
    kept = without_test_questions(train, test)
    return Splits(tuple(kept), tuple(test), len(train) - len(kept))


def fixed_task(
    name: str, splits: Splits, *, license: str, source: str, grader: Grader, subjects: tuple[str, ...] = ()
) -> FixedTask:
    """The task of these splits, of some subjects only if any are given; raises ConfigError for unknown subjects."""
    train, test = splits.train, splits.test
    if subjects:
        wanted = _known_subjects(name, subjects, (*train, *test))
        train = tuple(problem for problem in train if problem.subject in wanted)
        test = tuple(problem for problem in test if problem.subject in wanted)
    levels = {problem.level for problem in (*train, *test) if problem.level is not None}
    return FixedTask(
        name=name,
        license=license,
        source=source,
        levels=tuple(sorted(levels, key=level_order)),
        train=train,
        test=test,
        grader=grader,
        n_dropped=splits.n_dropped,
        no_train=f"All {splits.n_dropped} are in the test split too." if splits.n_dropped else _NO_TRAIN,
        no_test=_NO_TEST,
    )


def _known_subjects(name: str, subjects: tuple[str, ...], problems: Sequence[Problem]) -> set[str]:
    known = {_plain(problem.subject): problem.subject for problem in problems if problem.subject}
    if not known:
        raise ConfigError(f"The problems of task {name!r} have no subjects; name the right field with --subject-field.")
    for subject in subjects:
        if _plain(subject) not in known:
            near = difflib.get_close_matches(_plain(subject), known, n=1)
            hint = f" Did you mean {known[near[0]]!r}?" if near else ""
            raise ConfigError(f"Unknown subject {subject!r}.{hint} Known: {', '.join(sorted(known.values()))}.")
    plain = {_plain(subject) for subject in subjects}
    return {problem.subject for problem in problems if problem.subject and _plain(problem.subject) in plain}


def _plain(subject: str) -> str:
    return " ".join(subject.casefold().replace("&", " and ").replace("_", " ").split())
