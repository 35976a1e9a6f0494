"""Loggers beside metrics.jsonl: the same figures for TensorBoard, Weights & Biases and Trackio, by the names TRL gives.

A step's metrics are `train/NAME` and an evaluation's figures `eval/NAME`, each at its step. What has been sent stands
in the run's logs.json, so that a resumed run goes on with the same curve: steps that it takes again are the same, and
are not sent twice. A process that is killed may leave out what a logger had not written yet; metrics.jsonl has it.
"""

import contextlib
import io
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.run.folder import write_atomically

PROJECT = "expo-lite"
STATE = "logs.json"
FAILURES: tuple[type[Exception], ...] = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    sqlite3.Error,
)
"""What loggers raise where a disk, a network or a service fails them, beside errors of their own."""


class Logger(Protocol):
    """One logger that is open: `failures` are the errors of its own."""

    failures: tuple[type[Exception], ...]

    def __init__(self, folder: Path, run_id: str, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """Open it for the run in a folder."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send figures of a step."""

    def close(self) -> None:
        """Write what it still holds."""


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs` shows all runs."""

    failures: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, run_id: str, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """Start a new event file; TensorBoard reads those of a folder as one."""
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        self._writer = writer(str(folder / "tensorboard"))
        if not resumed:
            self._writer.add_text("settings", f"```\n{json.dumps(settings, indent=2)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Each figure is a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class Wandb:
    """Weights & Biases, by its own settings (WANDB_MODE, WANDB_PROJECT, ...); its files lie in the run's folder."""

    failures: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, run_id: str, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """Start or resume the run of this id."""
        import wandb
        from wandb.errors import Error

        self.failures = (Error,)
        quiet = wandb.Settings(silent=True, console="off")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=str(folder),
                id=run_id,
                name=folder.name,
                config=dict(settings),
                resume="allow",
                settings=quiet,
            )
        except Error as error:
            raise RuntimeError(str(error)) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """In one call a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is sent, or written where it is offline."""
        self._run.finish()


class Trackio:
    """Trackio's own database (TRACKIO_DIR): `trackio show --project expo-lite` opens it."""

    failures: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, run_id: str, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """Start or resume the run of this name."""
        import trackio

        self._trackio: Any = trackio
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how it is opened
            trackio.init(
                project=PROJECT,
                name=f"{folder.name}-{run_id}",
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """In one call a step."""
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is written."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


class Figures(Protocol):
    """An evaluation."""

    def scalars(self) -> Mapping[str, float]:
        """Its figures by name."""


class Logs:
    """The loggers of one run; without any, nothing is done."""

    def __init__(
        self, names: Iterable[str], folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        """Open them.

        Raises:
            CheckpointError: the folder's logs.json is damaged.
            ConfigError: one cannot be started, as where it wants to log in and cannot.
        """
        self._file, self._warn = folder / STATE, warn
        self._open: dict[str, Logger] = {}
        names = list(names)
        self._state = _read(self._file) if names else {}
        for name in names:
            resumed = name in self._state
            state = self._state.setdefault(name, {"id": secrets.token_hex(4), "step": 0, "evaluated": []})
            try:
                self._open[name] = LOGGERS[name](folder.absolute(), state["id"], settings, resumed=resumed)
            except FAILURES as error:
                self.close()
                raise ConfigError(
                    f"The logger {name} cannot be started: {_said(error)} Or leave it out of --log."
                ) from error

    def step(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics.jsonl, unless it has been sent."""
        step = int(row["step"])
        values = {f"train/{name}": float(value) for name, value in row.items() if name != "step"}
        for name in self._send([name for name in self._open if self._state[name]["step"] < step], step, values):
            self._state[name]["step"] = step
            self._write()

    def evaluation(self, step: int, evaluation: Figures | None) -> None:
        """Send the figures of the evaluation after a step, if there was one, unless they have been sent."""
        values = {f"eval/{name}": value for name, value in evaluation.scalars().items()} if evaluation else {}
        new = [name for name in self._open if values and step not in self._state[name]["evaluated"]]
        for name in self._send(new, step, values):
            self._state[name]["evaluated"].append(step)
            self._write()

    def close(self) -> None:
        """Close them all; one that fails here has failed once more, and is told."""
        for name, logger in list(self._open.items()):
            try:
                logger.close()
            except _failures(logger) as error:
                self._warn(
                    f"the logger {name} could not write all that it was sent: {_said(error)} metrics.jsonl has it."
                )
        self._open.clear()

    def _send(self, names: Sequence[str], step: int, values: Mapping[str, float]) -> Iterator[str]:
        """The loggers that have taken it. One that fails is told once, and not asked again in this process."""
        for name in names:
            logger = self._open[name]
            try:
                logger.log(step, values)
            except _failures(logger) as error:
                del self._open[name]
                self._warn(
                    f"the logger {name} has failed, and the run goes on without it: {_said(error)} metrics.jsonl has "
                    "all; --resume sends what it missed."
                )
            else:
                yield name

    def _write(self) -> None:
        write_atomically(self._file, json.dumps(self._state, indent=2) + "\n")


def _read(file: Path) -> dict[str, Any]:
    """What has been sent, by logger."""
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return {
            name: {"id": str(s["id"]), "step": int(s["step"]), "evaluated": list(s["evaluated"])}
            for name, s in state.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{file}' is damaged. Remove it, and the loggers begin a new curve.") from error


def _failures(logger: Logger) -> tuple[type[Exception], ...]:
    return (*FAILURES, *logger.failures)


def _said(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.rstrip(".") + "."
