"""Rows out of files (jsonl, csv, parquet, arrow), folders and hub data sets.

JSON and CSV are read here, since `datasets` would retype them (the answer 02 becomes 2); it reads the rest. Every error
is a DataError that names the file and the line (the row, for parquet and arrow; the item, for a JSON array). A row that
cannot be read is an error in its place, so that others can be read.
"""

import contextlib
import csv
import importlib
import io
import json
import lzma
import re
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from expo_lite.errors import DataError, first_line
from expo_lite.records import Problem
from expo_lite.settings.schema import not_a_file

T = TypeVar("T")

KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
"""The reader of a file, by its suffix; one that tells how the file is packed may follow it."""
_PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "zstandard"}
"""The module that unpacks a file, by its last suffix."""
_ABOUT_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""Files beside the data that hold no problem."""
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "dev": "validation"}
HUB_TIMEOUT_S = 10.0
_LARGEST_CSV_FIELD = 10_000_000  # characters


@dataclass(frozen=True, slots=True)
class DataRow:
    """The fields of one example, and its place: 'FILE, line 3'."""

    where: str
    fields: Mapping[str, object]
    problem: Problem | None = None
    """Set where the row is a problem already, which is taken as it is."""


Row = DataRow | DataError


def suffix_of(path: Path) -> str:
    """Return the suffix that says how a file is read: .jsonl of problems.jsonl.gz."""
    return (Path(path.stem) if path.suffix.lower() in _PACKINGS else path).suffix.lower()


def read_rows(path: Path, *, kind: str | None = None) -> list[Row]:
    """Read all rows of one file as `kind`, or as its suffix says; blank lines are skipped.

    Raises:
        DataError: the file is missing, empty, of another kind, or malformed as a whole.
    """
    by_name = KINDS.get(suffix_of(path))
    if kind and by_name not in (None, kind):
        raise DataError(f"Cannot read {path} as {kind}: by its name it is {by_name}. Give {by_name}:{path}.")
    kind = kind or by_name
    if kind is None:
        raise DataError(f"Cannot read {path}: its name must end in {', '.join(KINDS)}.")
    try:
        if what := not_a_file(path):
            raise DataError(f"Cannot read {path}: it is {what}.")
        if not path.exists():
            raise DataError(f"No file {path}.")
        own = {"jsonl": _json_rows, "csv": _csv_rows}.get(kind)
        rows = list(own(path, _unpacked(path)) if own else _table_rows(path, kind))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    if not rows:
        raise DataError(f"{path} is empty: it has no problem.")
    return rows


def _unpacked(path: Path) -> bytes:
    packing = _PACKINGS.get(path.suffix.lower())
    if packing is None:
        return path.read_bytes()
    try:
        with importlib.import_module(packing).open(path, "rb") as file:
            return bytes(file.read())
    except ImportError as error:
        raise DataError(f"Cannot read {path}: unpack it, or install the package {packing}.") from error


def _json_rows(path: Path, data: bytes) -> Iterator[Row]:
    r"""Rows of JSON Lines, or of one array; in bytes: a line ends at \n alone, and a bad byte is told with its line."""
    if data[:99].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        with contextlib.suppress(ValueError, RecursionError):  # else its lines tell what is wrong with it
            yield from [_object(f"{path}, item {i}", fields) for i, fields in enumerate(_json(data), start=1)]
            return
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            if line.strip():
                yield _object(where, _json(line.rstrip(b"\r")))
        except UnicodeDecodeError as error:
            yield DataError(f"{where}: not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8.")
        except json.JSONDecodeError as error:
            yield DataError(f"{where}: not a JSON object: {error.msg} (column {error.colno}).")
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            yield DataError(f"{where}: not a JSON object that can be read: {error}.")


def _json(text: bytes) -> Any:
    return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(fields := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {max(names, key=names.count)!r} comes twice: rename one")
    return fields


def _object(where: str, fields: object) -> Row:
    if not isinstance(fields, dict):
        return DataError(f"{where}: expected a JSON object, got {type(fields).__name__}.")
    return DataRow(where, fields)


def _csv_rows(path: Path, data: bytes) -> Iterator[Row]:
    csv.field_size_limit(_LARGEST_CSV_FIELD)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        n_before = data[: error.start].count(b"\n")
        raise DataError(f"{path}, line {n_before + 1}: not UTF-8. Save the file as UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(header) == 1 and (mark := re.search(r"[;\t|]", header[0])):
            name = "a tab" if mark[0] == "\t" else f"'{mark[0]}'"
            raise DataError(f"{path}, line 1: the columns must be separated by commas, not by {name}.")
        _once([(name, None) for name in header if name])
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if values and len(values) != len(header):
                yield DataError(f"{where}: {len(values)} values for the {len(header)} columns of the first line.")
            elif values:
                yield DataRow(where, {name: value or None for name, value in zip(header, values, strict=True)})
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error


def _table_rows(path: Path, kind: str) -> Iterator[Row]:
    import datasets  # late: it takes a second or more

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are told below
    with tempfile.TemporaryDirectory() as cache:
        try:
            name = re.sub(r"([*?[])", r"[\1]", str(path))  # a path, not a pattern
            table = datasets.load_dataset(kind, data_files=name, split="train", cache_dir=cache, keep_in_memory=True)
        except (ValueError, datasets.exceptions.DatasetsError) as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise DataError(f"{path}: not a file of {kind} rows that can be read: {why}") from error
    yield from _rows_of(table, f"{path}, row")


def _rows_of(table: Any, where: str) -> Iterator[Row]:
    try:
        rows = table.to_list()
    except (ValueError, OverflowError):
        rows = table  # one by one, slowly, to find the bad ones
    for i in range(len(table)):
        try:
            yield DataRow(f"{where} {i + 1}", rows[i])
        except (ValueError, OverflowError) as error:
            yield DataError(f"{where} {i + 1}: a value cannot be read: {error}.")


def hub_rows(repository: str, configs: tuple[str, ...], *, instead: str) -> dict[str, list[Row]]:
    """Download a data set (or find it in the cache of `datasets`) and return its rows by split.

    Raises:
        DataError: it cannot be had; the error ends with `instead`, which tells what else to do.
    """
    import datasets
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    refusal: Exception | None = None
    try:
        HfApi().dataset_info(repository, timeout=HUB_TIMEOUT_S)
    except (RepositoryNotFoundError, OfflineModeIsEnabled):
        pass  # `datasets` says so itself, and looks into its cache
    except (OSError, ValueError, httpx.HTTPError) as error:
        refusal = error
    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or refusal is not None  # or it would try again for half a minute
    rows: dict[str, list[Row]] = {}
    try:
        for config in configs:
            tables = datasets.load_dataset(repository, config or None)
            first = next(iter(tables.values()))
            if first.info.builder_name == "csv":  # as it is written, 02 and not 2
                texts = datasets.Features({name: datasets.Value("string") for name in first.column_names})
                tables = datasets.load_dataset(repository, config or None, features=texts)
            for name, table in tables.items():
                where = f"{repository}{':' * bool(config)}{config}, {name} row"
                rows.setdefault(split_in_name(Path(name)), []).extend(_rows_of(table, where))
        if refusal:
            warnings.warn(f"Data set '{repository}' is taken from the cache: {first_line(refusal)}", stacklevel=2)
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        why = first_line(refusal or error.__cause__ or error)
        raise DataError(f"Cannot read data set {repository!r} of the hub: {why} {instead}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    return named_splits(rows)


def split_files(folder: Path, *, suffixes: tuple[str, ...] = tuple(KINDS)) -> dict[str, list[Path]]:
    """Find the data files of a folder by split: train, validation, test, or '' where no name tells.

    Raises:
        DataError: there is no data file, or one split comes in two formats (the same data twice, most likely).
    """
    try:
        found = (p for p in folder.rglob("*") if suffix_of(p) in suffixes and p.name not in _ABOUT_DATA)
        files = sorted(p for p in found if p.is_file())
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
