"""Files that a run writes: replaced whole, or appended to line by line."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expo_lite.errors import CheckpointError


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a new text, or leave it as it was.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"Cannot write '{path}': {error.strerror}. Free some space or choose another --output."
        ) from error


def tail_rows(path: Path, n_bytes: int) -> list[dict[str, Any]]:
    """The whole rows in the last `n_bytes` of a JSON-lines file that may be growing; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            start = max(file.tell() - n_bytes, 0)
            file.seek(start)
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return []
    rows = []
    for line in lines[1:] if start else lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            rows.append(dict(json.loads(line)))
    return rows


class JsonLines:
    """An append-only JSON-lines file; every append is on its way to the disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self.path = path

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows in one write.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise CheckpointError(f"Cannot write '{self.path}': {error.strerror}.") from error

    def read(self) -> list[dict[str, Any]]:
        """All whole rows; a last line that was cut off in writing does not count.

        Raises:
            CheckpointError: the file is unreadable, or another line is none that was written.
        """
        rows: list[dict[str, Any]] = []
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise CheckpointError(f"Cannot read '{self.path}': {error.strerror}.") from error
        # bytes, for a line may have been cut off inside a character
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                raise CheckpointError(f"'{self.path}', line {number} is damaged: remove that line to go on.") from error
        return rows
