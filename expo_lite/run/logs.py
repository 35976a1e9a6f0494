"""Loggers beside metrics.jsonl, through the trackers of accelerate: the same figures, by the names that TRL gives.

A step's metrics are `train/NAME` and an evaluation's figures `eval/NAME`, each at its step. The run's logs.json says
what has been sent, so that a resumed run sends no step twice. When killed, a logger may lose its last steps;
metrics.jsonl has them. TensorBoard, W&B and Trackio have run here, and go on with the same curve after a resume; the
other trackers of accelerate have not, and may begin a new one.
"""

import contextlib
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.run.folder import write_atomically
from expo_lite.settings.schema import flat

PROJECT = "expo-lite"
STATE = "logs.json"


class Figures(Protocol):
    """An evaluation."""

    def scalars(self) -> Mapping[str, float]:
        """Its figures by name."""


def open_tracker(name: str, folder: Path, run_id: str, settings: dict[str, Any], *, resumed: bool) -> Any:
    """Start a tracker of accelerate for the run in a folder, or resume it."""
    from accelerate.state import PartialState  # imports torch
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers ask it whether this is the main process
    options: dict[str, dict[str, Any]] = {
        "wandb": {"dir": str(folder), "id": run_id, "name": folder.name, "resume": "allow",
                  "settings": {"silent": True, "console": "off"}},
        "trackio": {"name": f"{folder.name}-{run_id}", "resume": "allow", "config": settings, "embed": False,
                    "auto_log_gpu": False, "auto_log_cpu": False},
    }  # fmt: skip
    projects = {"tensorboard": "tensorboard", "wandb": os.environ.get("WANDB_PROJECT", PROJECT)}
    made = LOGGER_TYPE_TO_CLASS[name]
    place = [str(folder)] if made.requires_logging_directory else []
    tracker = made(projects.get(name, PROJECT), *place, **options.get(name, {}))
    with contextlib.redirect_stdout(io.StringIO()):  # some print how they are opened
        tracker.start()
        if not resumed:
            tracker.store_init_configuration(settings)
    return tracker


class Logs:
    """The loggers of one run; without any, nothing is done. One that fails is told once and left out from then on."""

    def __init__(
        self, names: Iterable[str], folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        """Open them.

        Raises:
            CheckpointError: the folder's logs.json is damaged.
            ConfigError: a logger cannot be started, for example because it cannot log in.
        """
        self._file, self._warn = folder / STATE, warn
        self._open: dict[str, Any] = {}
        names = list(names)
        self._state = _read(self._file) if names else {}
        plain = {key: str(value) if isinstance(value, list) else value for key, value in flat(dict(settings))}
        for name in names:
            resumed = name in self._state
            state = self._state.setdefault(name, {"id": secrets.token_hex(4), "step": 0, "evaluated": []})
            try:
                self._open[name] = open_tracker(name, folder.absolute(), state["id"], plain, resumed=resumed)
            except Exception as error:
                self.close()
                raise ConfigError(
                    f"The logger {name} cannot be started: {_said(error)} Or leave it out of --log."
                ) from error

    def step(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics.jsonl, unless it has been sent."""
        step = int(row["step"])
        values = {f"train/{name}": float(value) for name, value in row.items() if name != "step"}
        for name in list(self._open):
            if self._state[name]["step"] < step and self._send(name, step, values):
                self._state[name]["step"] = step
                self._write()

    def evaluation(self, step: int, evaluation: Figures | None) -> None:
        """Send the figures of the evaluation after a step, if there was one, unless they have been sent."""
        values = {f"eval/{name}": value for name, value in evaluation.scalars().items()} if evaluation else {}
        for name in list(self._open):
            done = self._state[name]["evaluated"]
            if values and step not in done and self._send(name, step, values):
                done.append(step)
                self._write()

    def close(self) -> None:
        """Close all loggers, which write what they still hold."""
        for name in list(self._open):
            tracker = self._open.pop(name)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    tracker.finish()
            except Exception as error:  # noqa: BLE001
                self._warn(f"the logger {name} could not write all: {_said(error)} metrics.jsonl has it.")

    def _send(self, name: str, step: int, values: Mapping[str, float]) -> bool:
        try:
            self._open[name].log(dict(values), step=step)
        except Exception as error:  # noqa: BLE001
            del self._open[name]
            self._warn(
                f"the logger {name} has failed, and the run goes on without it: {_said(error)} metrics.jsonl has all; "
                "--resume sends what it missed."
            )
            return False
        return True

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


def _said(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.rstrip(".") + "."
