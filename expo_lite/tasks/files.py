"""Rows out of jsonl, csv and parquet files, and the files out of a folder in the hub's layout or the hub itself.

Every error is a DataError that names the file and the line (the row, for parquet). A hub data set is downloaded as it
is and then read like any local folder, so the two cannot differ. README mappings of data files are not read: a file
belongs to the split that its name, or the folder it lies in, spells out.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_lite.errors import DataError
from expo_lite.settings.schema import not_a_file

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_SPLIT_WORDS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
}
_LARGEST_CSV_FIELD = 10_000_000  # characters


@dataclass(frozen=True, slots=True)
class DataRow:
    """The fields of one example, and where it stands: 'FILE, line 3'."""

    where: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class HubFiles:
    """What to fetch from the hub: a data set, one of its configurations ('' for all), and the files by pattern.

    Without `all_configs` a data set that has several must be asked for one of them.
    """

    repository: str
    config: str = ""
    all_configs: bool = False
    patterns: tuple[str, ...] = tuple(f"*{suffix}" for suffix in SUFFIXES)


def read_rows(path: Path, *, kind: str | None = None) -> list[DataRow]:
    """All rows of one file, read as `kind` (jsonl, csv, parquet) or by its suffix; blank lines are skipped.

    Raises DataError for a file that is missing, empty, of another kind, or malformed.
    """
    readers = {".jsonl": _jsonl_rows, ".json": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(f".{kind}" if kind else path.suffix.lower())
    if reader is None:
        raise DataError(f"Cannot read {path}: its name must end in {', '.join(SUFFIXES)}.")
    try:
        if what := not_a_file(path):
            raise DataError(f"Cannot read {path}: it is {what}.")
        rows = list(reader(path))
    except FileNotFoundError as error:
        raise DataError(f"No file {path}.") from error
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(header) == 1 and (found := next((mark for mark in ";\t|" if mark in header[0]), None)):
                name = "a tab" if found == "\t" else f"'{found}'"
                raise DataError(f"{path}, line 1: the columns must be separated by commas, not by {name}.")
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if not values:
                    continue
                if len(values) != len(header):
                    raise DataError(f"{where}: {len(values)} values for the {len(header)} columns of the first line.")
                yield DataRow(where, {name.strip(): value or None for name, value in zip(header, values, strict=True)})
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, {_line_of_bad_byte(path)}: not UTF-8.") from error


def _line_of_bad_byte(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number}"
    return "last line"


def _parquet_rows(path: Path) -> Iterator[DataRow]:
    # late: half a second, and only parquet needs it
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a parquet file that can be read: {str(error).splitlines()[0]}") from error
    columns = [_column(path, name, table.column(place)) for place, name in enumerate(table.column_names)]
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield DataRow(f"{path}, row {number}", dict(zip(table.column_names, values, strict=True)))


def _column(path: Path, name: str, column: Any) -> list[object]:
    """The values of a parquet column; a date may be one that Python has none for, and a text may be none."""
    values: list[object] = []
    try:
        for value in column:
            values.append(value.as_py())
    except (OverflowError, ValueError) as error:  # UnicodeDecodeError too
        raise DataError(f"{path}, row {len(values) + 1}: {name!r} cannot be read: {error}.") from error
    return values


def split_files(folder: Path, *, config: str = "", suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, list[Path]]:
    """The data files of a folder by split: train, validation, test, or '' where no name tells.

    With `config` only that sub-folder counts, if there is one. Raises DataError where there is no data file, or where
    one split comes in two formats (the same data twice, most likely).
    """
    base = folder / config if config and (folder / config).is_dir() else folder
    try:
        files = sorted(p for p in base.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    except OSError as error:
        raise DataError(f"Cannot read folder {base}: {error.strerror or error}.") from error
    found: dict[str, list[Path]] = {}
    for file in files:
        if not any(part.startswith(".") for part in file.relative_to(base).parts):
            found.setdefault(split_in_name(file.relative_to(base)), []).append(file)
    if not found:
        raise DataError(f"No data file in {base}: expected train and test files ending in {', '.join(suffixes)}.")
    if len(found) > 1:
        found.pop("", None)  # a README's example, a list of sources: not part of a named split
    for split, paths in found.items():
        kinds = sorted({path.suffix.lower() for path in paths})
        if len(kinds) > 1:
            raise DataError(f"{base} has {split or 'data'} files ending in {' and '.join(kinds)}: keep one kind.")
    return found


def configurations(folder: Path) -> list[str]:
    """The sub-folders that hold data of their own: not `data`, and not one named after a split."""
    if not folder.is_dir():
        return []
    return sorted(
        part.name
        for part in folder.iterdir()
        if part.is_dir()
        and part.name != "data"
        and not split_in_name(Path(part.name))
        and not part.name.startswith(".")
        if any(file.suffix.lower() in SUFFIXES for file in part.rglob("*"))
    )


def split_in_name(relative: Path) -> str:
    """The split that a file's name, or else the folder it lies in, spells out: '' if none does."""
    for part in (relative.stem, *reversed(relative.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return ""


def fetch(files: HubFiles, *, instead: str) -> Path:
    """Download a data set (or find it in the hub's cache) and return its folder; `instead` tells what else to do.

    Raises DataError, within seconds where there is no network.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    name = files.repository
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(files.patterns), etag_timeout=5))
    except HFValidationError as error:
        raise DataError(f"{name!r} is not the name of a hub data set: expected OWNER/NAME.") from error
    except GatedRepoError as error:
        raise DataError(
            f"Data set {name!r} is gated: accept its terms on the hub and set HF_TOKEN. {instead}"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(f"The hub has no data set {name!r} (or it is private: set HF_TOKEN). {instead}") from error
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"Data set {name!r} is not in the hub's cache, and the hub cannot be reached. {instead}"
        ) from error
    except (OSError, httpx.HTTPError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"Cannot fetch data set {name!r}: {first_line}. {instead}") from error
