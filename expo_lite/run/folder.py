"""The run folder: made once, never overwritten, cut back to the newest whole checkpoint when a run goes on.

Its files are replaced whole or appended to line by line.
"""

import contextlib
import fcntl
import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.prompts import TEMPLATE, read_prompts
from expo_lite.records import Prompts
from expo_lite.run.checkpoint import load_state, newest_whole, step_of
from expo_lite.settings.machine import installed_version
from expo_lite.settings.schema import flat, from_mapping, to_json
from expo_lite.settings.train import RunConfig
from expo_lite.terminal import command

PACKAGES = ("expo-lite", "torch", "transformers", "peft", "bitsandbytes", "datasets", "unsloth")
LOCK = ".lock"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "expo_lite.json")
"""An adapter as peft writes it, and the bits of the base that it was trained on, which peft has no place for."""
MAY_CHANGE = ("steps", "output", "resume", "save_every", "log")
"""Settings that may change when a run is resumed; any other would make it another run."""
TAIL_BYTES = 400_000
"""The end of samples.jsonl, where the latest step's samples are looked for."""


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """Raise CheckpointError for an error of the disk while this is open."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"Cannot {what}: {error.strerror}. Free some space or choose another --output."
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a new text, or leave it as it was.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _disk_errors(f"write '{path}'"):
        try:
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, values: Any) -> None:
    """Replace a file by a JSON document; raises what `write_atomically` does."""
    write_atomically(path, json.dumps(values, indent=2) + "\n")


def tail_rows(path: Path) -> list[dict[str, Any]]:
    """Read the whole rows at the end of a JSON-lines file that may be growing; [] if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0)
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
    """An append-only JSON-lines file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows in one write, which is on its way to the disk when this returns.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        with (
            _disk_errors(f"write '{self.path}'"),
            self.path.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(_lines(rows))

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write these rows in the place of all that are there; raises what `write_atomically` does."""
        write_atomically(self.path, _lines(rows))

    def read(self) -> list[dict[str, Any]]:
        """Read all whole rows; a last line that was cut off in writing does not count.

        Raises:
            CheckpointError: the file is unreadable, or another line is damaged.
        """
        rows: list[dict[str, Any]] = []
        with _disk_errors(f"read '{self.path}'"):
            data = self.path.read_bytes() if self.path.exists() else b""
        # bytes, for a line may have been cut off inside a character
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                raise CheckpointError(f"'{self.path}', line {number} is damaged: remove that line to go on.") from error
        return rows


class RunFolder:
    """The files of one run, and where it stands."""

    def __init__(self, path: Path) -> None:
        """Name the files; nothing is touched."""
        self.path = path
        self.config_file = path / "config.json"
        self.checkpoints = path / "checkpoints"
        self.start = path / "start"
        """A copy of the adapter that the run started from, if it did not start from the base model."""
        self.prompt_files = (path / "question_prompt.txt", path / "explanation_prompt.txt")
        """Copies of the user's own prompts, if there are any."""
        self.chat_template = path / TEMPLATE
        """The chat template that the run was begun with, as it was settled then."""
        self.metrics = JsonLines(path / "metrics.jsonl")
        self.samples = JsonLines(path / "samples.jsonl")
        self.pairs = JsonLines(path / "pairs.jsonl")

    def evaluation_file(self, step: int) -> Path:
        """The file of the evaluation after `step` steps."""
        return self.path / "evaluation" / f"step-{step:06d}.json"

    def evaluation_files(self) -> list[Path]:
        """The files of the evaluations that have been made, in the order of their steps."""
        return sorted((self.path / "evaluation").glob("step-*.json"))

    def prompts(self) -> Prompts:
        """Read the run's own prompts from its copies."""
        return read_prompts(*(copy if copy.exists() else None for copy in self.prompt_files))

    def create(self, config: RunConfig, *, device: str, start: Path | None = None) -> None:
        """Make the folder with its config.json, a copy of the adapter in the folder `start`, and copies of prompts.

        Raises:
            CheckpointError: it exists and is not empty, or cannot be made.
        """
        check_new(self.path)
        for folder in (self.path / "evaluation", self.checkpoints):
            make_folder(folder)
        if start is not None:
            make_folder(self.start)
            for name in ADAPTER_FILES:
                if (start / name).exists():
                    _copy(start / name, self.start / name)
        for prompt, copy in zip(config.prompt_files, self.prompt_files, strict=True):
            if prompt is not None:
                _copy(prompt, copy)
        write_json(self.config_file, {"settings": to_json(config), "run_id": secrets.token_hex(4)} | provenance(device))

    def complete(self, *, template: str, **about: Any) -> dict[str, Any]:
        """Add what is known once the policy is loaded, and is not there: its chat template, and more `about` the run.

        Returns:
            The whole config.json; what was there has stayed.

        Raises:
            CheckpointError: it cannot be written.
        """
        if template and not self.chat_template.exists():
            write_atomically(self.chat_template, template)
        there = read_json(self.config_file)
        whole = there | about | there  # in the order of the file
        if whole != there:
            write_json(self.config_file, whole)
        return whole

    def check_is_run(self) -> None:
        """Raise CheckpointError if there is no run."""
        if not self.config_file.is_file():
            raise CheckpointError(
                f"There is no run in '{self.path}': it has no {self.config_file.name}. Give the folder that train made."
            )

    def check(self, config: RunConfig) -> None:
        """Check that the folder belongs to these settings and has a checkpoint to go on from; nothing is touched.

        Raises:
            CheckpointError: there is no run to continue, or none of its checkpoints is whole.
            ConfigError: the run has other settings, or more steps are done than are asked for.
        """
        there, given = (dict(flat(to_json(settings))) for settings in (read_config(self.path), config))
        fixed = {key: given[key] for key in sorted(there) if key.split(".")[0] not in MAY_CHANGE}
        if details := differing(there, fixed):
            raise ConfigError(f"The run in '{self.path}' has other settings: {details}. Resume it with its own.")
        checkpoint, damaged = newest_whole(self.checkpoints)
        if checkpoint is None and damaged:
            raise CheckpointError(f"No whole checkpoint in '{self.path}': {'; '.join(damaged)}.")
        if checkpoint is not None and (done := step_of(checkpoint)) > config.steps:
            raise ConfigError(
                f"The run in '{self.path}' has {done} steps done, and {config.steps} are asked for. Resume it with "
                f"--steps {done} (in Python steps={done}) or more, or train anew with another --output (output=...)."
            )

    def cut_back(self) -> tuple[Path | None, list[str]]:
        """Cut the files back to the newest whole checkpoint.

        Returns:
            The checkpoint to go on from (None: from the start), and a line for each damaged one that was passed over.
        """
        checkpoint, damaged = newest_whole(self.checkpoints)
        step = load_state(checkpoint)["step"] if checkpoint else 0
        for file in (self.metrics, self.samples, self.pairs):
            if file.path.exists():
                file.replace(row for row in file.read() if row["step"] <= step)
        for leftover in self.checkpoints.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        return checkpoint, damaged


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """Replace a folder of runs, or of a sweep, by the runs in it; any other path stays as it is."""
    found: list[Path] = []
    for path in paths:
        inside = [] if _is_run(path) else sorted([*path.glob("*/config.json"), *path.glob("runs/*/config.json")])
        found += [file.parent for file in inside if _is_run(file.parent)] or [path]
    return found


def _is_run(folder: Path) -> bool:
    with contextlib.suppress(CheckpointError):
        return "method" in read_settings(folder)  # an evaluation has none
    return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing while this is open; the system releases it when the process ends.

    Raises:
        CheckpointError: another process holds it, or the lock cannot be written.
    """
    file = folder / LOCK
    with _disk_errors(f"write '{file}'"):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            raise CheckpointError(
                f"'{folder}' is being written by another process ({holder}). Wait for it, or stop it first."
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)  # a worker of a sweep lives on, and does not hold it any more
    finally:
        os.close(descriptor)


def is_new(folder: Path) -> bool:
    """Return whether a folder does not exist yet, or is empty."""
    return not folder.exists() or (folder.is_dir() and all(path.name == LOCK for path in folder.iterdir()))


def check_new(folder: Path) -> None:
    """Raise CheckpointError if something would be overwritten."""
    if not is_new(folder):
        raise CheckpointError(
            f"The folder '{folder}' exists. Continue it with --resume (in Python resume=True), or choose another one "
            "with --output (output=...)."
        )


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it; raise CheckpointError if that is impossible."""
    with _disk_errors(f"make the folder '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)


def read_config(folder: Path) -> RunConfig:
    """Read the settings of the run in a folder.

    Raises:
        CheckpointError: the folder holds no run.
    """
    return from_mapping(RunConfig, read_settings(folder), str(folder / "config.json"))


def read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file; raise CheckpointError if there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"Cannot read '{file}': {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{file}' is damaged: it is not JSON.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"'{file}' is damaged: it holds no JSON object.")
    return values


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings in the config.json of a run or an evaluation.

    Raises:
        CheckpointError: the folder has no such file, or something else is in it.
    """
    file = folder / "config.json"
    try:
        return {**json.loads(file.read_text(encoding="utf-8"))["settings"]}
    except OSError as error:
        raise CheckpointError(f"There is no run or evaluation in '{folder}': {file.name}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"There is no run or evaluation in '{folder}': {file.name} has no settings.") from error


def differing(there: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """List the given settings that differ from those that are there; "" if none does."""
    changed = (key for key in given if there.get(key) != given[key])
    return ", ".join(f"{key} ({there.get(key)} there, {given[key]} given)" for key in changed)


def resuming(folder: Path) -> str:
    """The command line that goes on with the run in a folder."""
    return command("train", "--resume", "--output", folder)


def settings_to_resume(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder, as a settings file for `train` that resumes it."""
    settings = to_json(read_config(folder))
    start, _ = settings.pop("start_from"), settings.pop("start_sha256")
    return settings | {"model": start or settings["model"], "output": str(folder), "resume": True}


def provenance(device: str) -> dict[str, Any]:
    """Versions, git revision and device, for the config.json of whatever is made."""
    versions = {name: installed_version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return {"versions": versions, "git_revision": _git_revision(), "device": device}


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _copy(source: Path, copy: Path) -> None:
    with _disk_errors(f"copy '{source}' to '{copy}'"):
        shutil.copyfile(source, copy)


def _git_revision() -> str | None:
    """The commit of this file's repository, if it is in one; an environment may lie in somebody else's."""
    if (git := shutil.which("git")) is None:
        return None
    ask = partial(subprocess.run, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    tracked = ask((git, "ls-files", __file__)).stdout
    return (ask((git, "rev-parse", "HEAD")).stdout.strip() or None) if tracked else None
