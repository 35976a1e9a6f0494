"""Tasks out of data: files, folders, hub data sets and Python objects, split into train and test.

A data set keeps its own splits; without test problems the validation split is the test split, and without that a fixed
10% is held out (`splits.hold_out`). The known data sets are GSM8K (Cobbe et al. 2021), MATH (Hendrycks et al. 2021) and
MATH-500, the 500 test problems of Lightman et al. 2023, which has no train split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expo_lite.errors import ConfigError, DataError
from expo_lite.records import Problem, level_order
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.fields import Fields, problem_from_row
from expo_lite.tasks.files import DataRow, hub_rows, read_rows, split_files, split_in_name
from expo_lite.tasks.splits import hold_out, without_test_questions

if TYPE_CHECKING:
    from expo_lite.grading import Grader

Rows = Mapping[str, Iterable[DataRow]]
"""Rows by split; '' for those of no split."""
_MATH = "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus".split()


@dataclass(frozen=True, slots=True)
class KnownData:
    """A data set of the hub with a name of its own here."""

    repository: str
    configs: tuple[str, ...]
    """The configurations to read, in this order; '' for a data set without any."""
    instead: str
    """The files to fetch by hand."""


KNOWN = {
    "gsm8k": KnownData(
        "openai/gsm8k",
        ("main",),
        "Fetch main/train-00000-of-00001.parquet and main/test-00000-of-00001.parquet from "
        "https://huggingface.co/datasets/openai/gsm8k (or train.jsonl and test.jsonl from "
        "https://github.com/openai/grade-school-math) into one folder, and name it with --data FOLDER.",
    ),
    "math": KnownData(
        "EleutherAI/hendrycks_math",
        tuple(_MATH),
        "Fetch the seven folders, algebra to precalculus, each with train-00000-of-00001.parquet and "
        "test-00000-of-00001.parquet, from https://huggingface.co/datasets/EleutherAI/hendrycks_math, and name the "
        "folder that holds them with --data FOLDER (train.jsonl and test.jsonl with problem, solution and level do "
        "too).",
    ),
    "math-500": KnownData(
        "HuggingFaceH4/MATH-500",
        ("",),
        "Fetch test.jsonl from https://huggingface.co/datasets/HuggingFaceH4/MATH-500, and name it with --data FILE.",
    ),
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


def _rows_of(files: Mapping[str, Sequence[Path]], kind: str | None = None) -> Rows:
    """Rows by split, each file read when its rows are asked for."""

    def rows(paths: Sequence[Path]) -> Iterator[DataRow]:
        for path in paths:
            yield from read_rows(path, kind=kind)

    return {split: rows(paths) for split, paths in files.items()}


def task_of_splits(
    name: str, rows: Rows, grader: Grader, options: TaskOptions, *, prefix: str, kind: str | None = None
) -> FixedTask:
    """Make the task of some rows; train problems whose question is in the test split are dropped.

    Args:
        name: as typed.
        rows: by split.
        grader: compares answers.
        options: field names, and perhaps a file that is the test split.
        prefix: problems without an identifier are numbered from 0 as `prefix/SPLIT/NUMBER`.
        kind: how the test file is read; None for what its suffix says.

    Raises:
        DataError: a row cannot be read, or an identifier comes twice.
    """
    fields, seen = Fields.of(options.fields), set[str]()

    def problems(split: str, rows: Iterable[DataRow]) -> list[Problem]:
        read: list[Problem] = []
        for row in rows:
            problem = problem_from_row(row, f"{prefix}/{split}/{len(read)}", fields)
            if problem.problem_id in seen:
                raise DataError(f"{row.where}: the problem_id {problem.problem_id!r} comes a second time.")
            seen.add(problem.problem_id)
            read.append(problem)
        return read

    lone = rows.get("train") or rows.get("", ())
    if options.test_file is not None:
        rows = {"train": lone, "test": read_rows(options.test_file, kind=kind)}
    test = problems("test", rows.get("test") or rows.get("validation", ()))
    train = problems("train", rows.get("train", ()) if test else lone)
    n_train = len(train)
    if test:
        train = without_test_questions(train, test)
    else:
        train, test = hold_out(train)
        n_train = len(train)
    levels = {problem.level for problem in (*train, *test) if problem.level is not None}
    return FixedTask(
        name=name,
        levels=tuple(sorted(levels, key=level_order)),
        train=tuple(train),
        test=tuple(test),
        grader=grader,
        n_dropped=n_train - len(train),
    )
