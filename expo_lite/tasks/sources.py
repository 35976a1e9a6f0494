"""Tasks out of data: files, folders, hub data sets and Python objects, split into train and test.

A data set keeps its own splits; without test problems the validation split is the test split, and without that a fixed
10% is held out (`splits.hold_out`). The known data sets are GSM8K (Cobbe et al. 2021), MATH (Hendrycks et al. 2021) and
MATH-500, the 500 test problems of Lightman et al. 2023, which has no train split.
"""

import runpy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import cast

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem, level_order
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask, Task
from expo_lite.tasks.checks import doubts, summary, without_unmatched
from expo_lite.tasks.fields import Fields, flat, problem_from_row
from expo_lite.tasks.files import Row, hub_rows, read_rows, split_files, split_in_name
from expo_lite.tasks.splits import hold_out, without_test_questions

Rows = Mapping[str, Iterable[Row]]
"""Rows by split; '' for those of no split."""
_MATH = "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus".split()


@dataclass(frozen=True, slots=True)
class KnownData:
    """A data set of the hub with a name of its own here."""

    repository: str
    configs: tuple[str, ...]
    """The configurations to read, in this order; '' for a data set without any."""
    files: str
    """The files to fetch by hand."""

    @property
    def instead(self) -> str:
        """The way to have it without the hub."""
        return f"Fetch {self.files} from https://huggingface.co/datasets/{self.repository}, and name it with --data."


_PARQUET = "train-00000-of-00001.parquet and test-00000-of-00001.parquet"
KNOWN = {
    "gsm8k": KnownData("openai/gsm8k", ("main",), f"the folder main, which has {_PARQUET},"),
    "math": KnownData(
        "EleutherAI/hendrycks_math",
        tuple(_MATH),
        f"seven folders, algebra to precalculus, each with {_PARQUET}, into one",
    ),
    "math-500": KnownData("HuggingFaceH4/MATH-500", ("",), "test.jsonl"),
}


def load_known(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """Read a known data set from the hub, or from `options.data`: a file, or a folder in the hub's layout."""
    known, data = KNOWN[name], options.data
    rows: Rows
    if data is None:
        rows = hub_rows(known.repository, known.configs, instead=known.instead)
    elif data.is_dir():
        folder = data / known.configs[0]  # beside other configurations, as in the hub's own folder
        rows = _rows_of(split_files(folder if len(known.configs) == 1 and folder.is_dir() else data))
    elif data.exists():
        is_test = name == "math-500" or split_in_name(Path(data.name)) == "test"
        rows = _rows_of({"test" if is_test else "": [data]})
    else:
        raise DataError(f"No file or folder {data} (--data). {known.instead}")
    return task_of_splits(name, rows, grader, options, prefix=name)


def load_file(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """Read the task `KIND:PATH`; a folder has files of that kind named after their splits."""
    kind, _, typed = name.partition(":")
    if not typed:
        raise ConfigError(f"Task {name!r} names no file: expected {kind}:PATH.")
    path = Path(typed).expanduser()
    files = split_files(path, suffixes=(f".{kind}",)) if path.is_dir() else {"": [path]}
    return task_of_splits(name, _rows_of(files, kind), grader, options, prefix=path.stem, kind=kind)


def load_hub(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """Read the task `hub:OWNER/NAME[:CONFIG]`."""
    repository, _, config = name.removeprefix("hub:").partition(":")
    if repository.count("/") != 1:
        raise ConfigError(f"Task {name!r} names no data set: expected hub:OWNER/NAME or hub:OWNER/NAME:CONFIG.")
    instead = (
        f"Fetch its {config}{' ' * bool(config)}train and test files from "
        f"https://huggingface.co/datasets/{repository} into one folder, and name it as --task jsonl:FOLDER, "
        "csv:FOLDER, parquet:FOLDER or arrow:FOLDER."
    )
    return task_of_splits(name, hub_rows(repository, (config,), instead=instead), grader, options, prefix=repository)


def load_python(name: str, _grader: Grader, _options: TaskOptions) -> Task:
    """Run a Python file, and return what it calls TASK.

    Raises:
        ConfigError: it names no file, or the file has no TASK with problems and grade.
        DataError: the file raises an error.
    """
    path = Path(name.partition(":")[2]).expanduser()
    if not path.is_file():
        raise ConfigError(f"Task {name!r} names no file: expected python:FILE.")
    try:
        task = runpy.run_path(str(path), run_name=path.stem).get("TASK")
    except Exception as error:  # anybody's code
        raise DataError(f"'{path}' cannot be run: {type(error).__name__}: {error}") from error
    if not all(hasattr(task, part) for part in ("name", "levels", "problems", "grade")):
        raise ConfigError(f"'{path}' has no TASK: expected an object with name, levels, problems and grade.")
    return cast(Task, task)


def _rows_of(files: Mapping[str, Sequence[Path]], kind: str = "") -> Rows:
    """Rows by split, each file read when its rows are asked for."""
    return {split: chain.from_iterable(read_rows(path, kind=kind) for path in paths) for split, paths in files.items()}


class _Reader:
    """Reads rows as problems; counts columns that it does not read, and keeps the errors of rows that it skips."""

    def __init__(self, options: TaskOptions, prefix: str) -> None:
        self._fields, self._prefix, self._skips = Fields.of(options.fields), prefix, options.skip_bad_rows
        self._identifiers: set[str] = set()
        self.unread: Counter[str] = Counter()
        self.skipped: list[DataError] = []

    def problems(self, split: str, rows: Iterable[Row]) -> list[Problem]:
        """Read the rows of a split; raises DataError for a bad one, or skips it."""
        found: list[Problem] = []
        for i, row in enumerate(rows):
            try:
                if isinstance(row, DataError):
                    raise row if self._skips else DataError(f"{row} Mend the row, or leave it out (--skip-bad-rows).")
                row = replace(row, fields=flat(row.fields))
                problem = problem_from_row(row, f"{self._prefix}/{split}/{i}", self._fields)
                if problem.problem_id in self._identifiers:
                    raise DataError(f"{row.where}: the problem_id {problem.problem_id!r} comes a second time.")
            except DataError as error:
                if not self._skips:
                    raise
                self.skipped.append(error)
                continue
            self._identifiers.add(problem.problem_id)
            self.unread.update(self._fields.unread(row))
            found.append(problem)
        return found


def task_of_splits(
    name: str, rows: Rows, grader: Grader, options: TaskOptions, *, prefix: str, kind: str = "", is_judged: bool = False
) -> FixedTask:
    """Make the task of some rows.

    Train problems whose question is in the test split are dropped, and so are problems whose answer no reply can match.

    Args:
        name: as typed.
        rows: by split.
        grader: compares answers.
        options: field names, and perhaps a file that is the test split.
        prefix: problems without an identifier are numbered from 0 as `prefix/SPLIT/NUMBER`.
        kind: how the test file is read; empty for what its suffix says.
        is_judged: a function judges the replies, so that answers may be anything.

    Raises:
        DataError: a row cannot be read, an identifier comes twice, or no reply could match most of the answers.
    """
    reader = _Reader(options, prefix)
    lone = rows.get("train") or rows.get("", ())
    if options.test_file is not None:
        rows = {"train": lone, "test": read_rows(options.test_file, kind=kind)}
    test = reader.problems("test", rows.get("test") or rows.get("validation", ()))
    train, has_test = reader.problems("train", rows.get("train", ()) if test else lone), bool(test)
    n_skipped, n_rows = len(reader.skipped), len(reader.skipped) + len(train) + len(test)
    if 0 < n_skipped == n_rows:
        raise reader.skipped[0]
    said = [
        f"{n_skipped:,} of {n_rows:,} rows cannot be read and are skipped; the first: {error}"
        for error in reader.skipped[:1]
    ]
    (train, test), dropped = ((train, test), []) if is_judged else without_unmatched(name, (train, test), grader)
    n_train = len(train)
    train, test = (without_test_questions(train, test), test) if has_test else hold_out(train)
    n_repeated = n_train - len(train) if has_test else 0
    if n_repeated:
        dropped.append(f"{n_repeated:,} train problems are left out: their questions are in the test split too.")
    said += [*dropped, *doubts([*train, *test], reader.unread, grader)]
    levels = {problem.level for problem in (*train, *test) if problem.level is not None}
    notes = (summary(name, train, test, reader.unread), *(f"warning: {line}" for line in said))
    in_order = tuple(sorted(levels, key=level_order))
    return FixedTask(name, in_order, tuple(train), tuple(test), grader, n_repeated, notes)
