"""Tasks out of files and hub data sets with any field names: `jsonl:`, `csv:`, `parquet:` and `hub:`.

A lone file holds out a fixed 10% for testing (`splits.hold_out`); a folder or hub data set keeps the splits that its
file names spell out, and a test file given by name is the test split. What `expo-lite hard` writes is read as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expo_lite.errors import ConfigError
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.fields import Fields, problem_from_row
from expo_lite.tasks.files import HubFiles, split_files
from expo_lite.tasks.sources import RowReader, find_files, fixed_task, read_splits, with_test_file

if TYPE_CHECKING:
    from expo_lite.grading import Grader


_SPLIT = "expert chains where the rows have them; held out: its own test split, else one question text in 10, by CRC"


def load_file(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """The task `jsonl:PATH`, `csv:PATH` or `parquet:PATH`; a folder has files of that kind named after their splits."""
    kind, _, typed = name.partition(":")
    if not typed:
        raise ConfigError(f"Task {name!r} names no file: expected {kind}:PATH.")
    path = Path(typed).expanduser()
    files = split_files(path, suffixes=(f".{kind}",)) if path.is_dir() else {"": [path]}
    splits = read_splits(with_test_file(files, options), prefix=path.stem, read=row_reader(options), kind=kind)
    return fixed_task(
        name, splits, license="the file's own", source=f"{path}; {_SPLIT}", grader=grader, subjects=options.subjects
    )


def load_hub(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """The task `hub:OWNER/NAME[:CONFIG]`, or a local copy of its files in `options.data`."""
    repository, _, config = name.removeprefix("hub:").partition(":")
    if repository.count("/") != 1:
        raise ConfigError(f"Task {name!r} names no data set: expected hub:OWNER/NAME or hub:OWNER/NAME:CONFIG.")
    hub = HubFiles(repository, config=config)
    instead = (
        f"Fetch its {config}{' ' * bool(config)}train and test files (jsonl, csv or parquet) from "
        f"https://huggingface.co/datasets/{repository} into one folder, and name it with --data FOLDER."
    )
    splits = read_splits(
        find_files(options, hub=hub, instead=instead, lone_file="hold out"),
        prefix=repository,
        read=row_reader(options),
    )
    license = "see its card on the hub"
    return fixed_task(
        name, splits, license=license, source=f"{repository}; {_SPLIT}", grader=grader, subjects=options.subjects
    )


def row_reader(options: TaskOptions) -> RowReader:
    """What makes a problem of a row, with the field names of the options."""
    fields = Fields.of(options)
    return lambda row, problem_id: problem_from_row(row, problem_id, fields)
