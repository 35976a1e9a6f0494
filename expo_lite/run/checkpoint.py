"""Checkpoints: written whole or not at all, read back exactly, no pickle.

A checkpoint is written under a temporary name, flushed to the disk and renamed. `state.json` holds the size and SHA-256
of every other file and its own SHA-256, so that damage is found before anything is loaded.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from expo_lite.errors import CheckpointError

if TYPE_CHECKING:
    import torch

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
BEST = "best"
"""The name of the checkpoint that measured best; without a number, so that it is not removed as an old one."""
_NAME = re.compile(r"step-\d{6,}")


def save(
    folder: Path,
    step: int,
    *,
    write_adapter: Callable[[Path], None],
    optimizer: "dict[str, torch.Tensor]",
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write checkpoint `step-NNNNNN` in `folder`, then remove all but the newest `keep`.

    Args:
        folder: the run's `checkpoints` folder.
        step: training steps done.
        write_adapter: writes the adapter's files into the folder that it is given.
        optimizer: the optimiser's state by parameter name.
        state: whatever else resuming needs, as JSON values.
        keep: how many checkpoints to leave.

    Raises:
        CheckpointError: the disk is full or not writable; the checkpoints that were there are untouched.
    """
    from safetensors.torch import save_file  # imports torch, which reading a checkpoint does without

    final = folder / f"step-{step:06d}"
    temporary = folder / f".step-{step:06d}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_adapter(temporary)
        save_file({name: tensor.contiguous() for name, tensor in optimizer.items()}, temporary / OPTIMIZER)
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        (temporary / STATE).write_bytes(_sealed(json.dumps({"step": step, "files": files, **state}).encode()))
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)  # only one that failed the check is written again
        temporary.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"Cannot save checkpoint '{final}': {error}. Earlier checkpoints are whole; make room on the disk."
        ) from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def keep_best(folder: Path, step: int) -> Path:
    """Copy checkpoint `step-NNNNNN` to `best`, in place of what was there.

    Raises:
        CheckpointError: there is no room for it; the one that was there is whole.
    """
    final, temporary = folder / BEST, folder / f".{BEST}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder / f"step-{step:06d}", temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"Cannot keep '{final}': {error}. Make room on the disk.") from error
    return final


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first, whole or not; folders of other names, such as copies, do not count."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()), key=step_of)


def step_of(file: Path) -> int:
    """The number of training steps in the name of a checkpoint or an evaluation."""
    return int(file.stem.removeprefix("step-"))


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that passes the check, and a line for each newer one that does not."""
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        if (problem := damage(path)) is None:
            return path, damaged
        damaged.append(f"checkpoint '{path}' is damaged: {problem}")
    return None, damaged


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint; None if it is whole."""
    try:
        sealed = (checkpoint / STATE).read_bytes()
        if sealed != _sealed(b"{" + sealed[_SEAL_BYTES:]):
            return f"{STATE} is not what was written"
        files: Mapping[str, str] = load_state(checkpoint)["files"]
        for name, fingerprint in files.items():
            if _fingerprint(checkpoint / name) != fingerprint:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return None


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a whole checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return state


def _sealed(text: bytes) -> bytes:
    """Add the SHA-256 of a JSON object's text as its first entry."""
    return b'{"sha256": "%s", ' % hashlib.sha256(text).hexdigest().encode() + text[1:]


_SEAL_BYTES = len(_sealed(b""))


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
