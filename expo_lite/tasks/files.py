"""Rows out of files (jsonl, csv, parquet, arrow), folders and hub data sets.

JSON Lines and CSV are read here, since `datasets` would retype them (the answer 02 becomes 2); it reads the rest. Every
error is a DataError that names the file and the line (the row, for parquet and arrow).
"""

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from expo_lite.errors import DataError
from expo_lite.records import Problem
from expo_lite.settings.schema import not_a_file

T = TypeVar("T")

KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
"""The reader of a file, by its suffix."""
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "dev": "validation"}
_LARGEST_CSV_FIELD = 10_000_000  # characters


@dataclass(frozen=True, slots=True)
class DataRow:
    """The fields of one example, and its place: 'FILE, line 3'."""

    where: str
    fields: Mapping[str, object]
    problem: Problem | None = None
    """Set where the row is a problem already, which is taken as it is."""


def read_rows(path: Path, *, kind: str | None = None) -> list[DataRow]:
    """Read all rows of one file as `kind`, or as its suffix says; blank lines are skipped.

    Raises:
        DataError: the file is missing, empty, of another kind, or malformed.
    """
    kind = kind or KINDS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"Cannot read {path}: its name must end in {', '.join(KINDS)}.")
    try:
        if what := not_a_file(path):
            raise DataError(f"Cannot read {path}: it is {what}.")
        if not path.exists():
            raise DataError(f"No file {path}.")
        own = {"jsonl": _jsonl_rows, "csv": _csv_rows}.get(kind)
        rows = list(own(path) if own else _table_rows(path, kind))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not rows:
        raise DataError(f"{path} is empty: it has no problem.")
    return rows


def _jsonl_rows(path: Path) -> Iterator[DataRow]:
    with path.open("rb") as file:  # in bytes: a line ends at \n alone, and a bad byte is told with its line
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                fields = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 (byte {error.start + 1} of the line).") from error
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not a JSON object: {error.msg} (column {error.colno}).") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise DataError(f"{where}: not a JSON object that can be read: {error}.") from error
            if not isinstance(fields, dict):
                raise DataError(f"{where}: expected a JSON object, got {type(fields).__name__}.")
            yield DataRow(where, fields)


def _csv_rows(path: Path) -> Iterator[DataRow]:
    csv.field_size_limit(_LARGEST_CSV_FIELD)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        n_before = data[: error.start].count(b"\n")
        raise DataError(f"{path}, line {n_before + 1}: not UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(header) == 1 and (mark := re.search(r"[;\t|]", header[0])):
            name = "a tab" if mark[0] == "\t" else f"'{mark[0]}'"
            raise DataError(f"{path}, line 1: the columns must be separated by commas, not by {name}.")
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if values and len(values) != len(header):
                raise DataError(f"{where}: {len(values)} values for the {len(header)} columns of the first line.")
            if values:
                yield DataRow(where, {name.strip(): value or None for name, value in zip(header, values, strict=True)})
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error


def _table_rows(path: Path, kind: str) -> Iterator[DataRow]:
    import datasets  # late: it takes a second or more

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are told below
    with tempfile.TemporaryDirectory() as cache:
        try:
            name = re.sub(r"([*?[])", r"[\1]", str(path))  # a path, not a pattern
            table = datasets.load_dataset(kind, data_files=name, split="train", cache_dir=cache, keep_in_memory=True)
            rows = table.to_list()
        except (ValueError, OverflowError, datasets.exceptions.DatasetsError) as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise DataError(f"{path}: not a file of {kind} rows that can be read: {why}") from error
    for number, fields in enumerate(rows, start=1):
        yield DataRow(f"{path}, row {number}", fields)


def hub_rows(repository: str, configs: tuple[str, ...], *, instead: str) -> dict[str, list[DataRow]]:
    """Download a data set (or find it in the cache of `datasets`) and return its rows by split.

    Raises:
        DataError: it cannot be had; the error ends with `instead`, which tells what else to do.
    """
    import datasets
    import httpx

    rows: dict[str, list[DataRow]] = {}
    try:
        for config in configs:
            tables = datasets.load_dataset(repository, config or None)
            first = next(iter(tables.values()))
            if first.info.builder_name == "csv":  # as it is written, 02 and not 2
                texts = datasets.Features({name: datasets.Value("string") for name in first.column_names})
                tables = datasets.load_dataset(repository, config or None, features=texts)
            for name, table in tables.items():
                where = f"{repository}{':' * bool(config)}{config}, {name} row"
                found = [DataRow(f"{where} {number}", row) for number, row in enumerate(table.to_list(), start=1)]
                rows.setdefault(split_in_name(Path(name)), []).extend(found)
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        why = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"Cannot read data set {repository!r} of the hub: {why.rstrip('.')}. {instead}") from error
    return named_splits(rows)


def split_files(folder: Path, *, suffixes: tuple[str, ...] = tuple(KINDS)) -> dict[str, list[Path]]:
    """Find the data files of a folder by split: train, validation, test, or '' where no name tells.

    Raises:
        DataError: there is no data file, or one split comes in two formats (the same data twice, most likely).
    """
    try:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    except OSError as error:
        raise DataError(f"Cannot read folder {folder}: {error.strerror or error}.") from error
    by_split: dict[str, list[Path]] = {}
    for file in files:
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            by_split.setdefault(split_in_name(file.relative_to(folder)), []).append(file)
    if not by_split:
        raise DataError(f"No data file in {folder}: expected train and test files ending in {', '.join(suffixes)}.")
    by_split = named_splits(by_split)
    for split, paths in by_split.items():
        kinds = sorted({path.suffix.lower() for path in paths})
        if len(kinds) > 1:
            raise DataError(f"{folder} has {split or 'data'} files ending in {' and '.join(kinds)}: keep one kind.")
    return by_split


def named_splits(by_split: dict[str, list[T]]) -> dict[str, list[T]]:
    """Drop what belongs to no split where there are splits: a README's example, a list of sources."""
    return {split: some for split, some in by_split.items() if split or len(by_split) == 1}


def split_in_name(relative: Path) -> str:
    """Return the split that a file's name, or else the folder it lies in, spells out: '' if none does."""
    for part in (relative.stem, *reversed(relative.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""
