"""Loggers beside metrics.jsonl, through the trackers of accelerate: the same figures, by the names that TRL gives.

A step's metrics are `train/NAME` and an evaluation's figures `eval/NAME`, each at its step. A resumed run goes on with
the same curve, from the checkpoint's step on; steps after that checkpoint are sent again. A logger that is new to the
run gets no earlier steps, and one that is killed may lose its last ones; metrics.jsonl has all. TensorBoard, W&B and
Trackio have run here; the other trackers of accelerate have not, and may begin a new curve.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from expo_lite.errors import ConfigError, first_line
from expo_lite.run.folder import RunFolder, read_json
from expo_lite.settings.schema import flat

PROJECT = "expo-lite"


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
        self,
        names: Iterable[str],
        folder: RunFolder,
        settings: Mapping[str, Any],
        warn: Callable[[str], None],
        *,
        resumed: bool,
    ) -> None:
        """Open them; a run that is `resumed` goes on with its curve.

        Raises:
            ConfigError: a logger cannot be started, for example because it cannot log in.
        """
        self._warn = warn
        self._open: dict[str, Any] = {}
        plain = {key: str(value) if isinstance(value, list) else value for key, value in flat(dict(settings))}
        for name in names:
            try:
                run_id = read_json(folder.config_file)["run_id"]
                self._open[name] = open_tracker(name, folder.path.absolute(), run_id, plain, resumed=resumed)
            except Exception as error:
                self.close()
                raise ConfigError(
                    f"The logger {name} cannot be started: {first_line(error)} Or leave it out of --log."
                ) from error

    def step(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics.jsonl."""
        values = {f"train/{name}": float(value) for name, value in row.items() if name != "step"}
        self._send(int(row["step"]), values)

    def evaluation(self, step: int, evaluation: Figures | None) -> None:
        """Send the figures of the evaluation after a step, if there was one."""
        if evaluation:
            self._send(step, {f"eval/{name}": value for name, value in evaluation.scalars().items()})

    def close(self) -> None:
        """Close all loggers, which write what they still hold."""
        for name in list(self._open):
            with contextlib.redirect_stdout(io.StringIO()):
                self._try(name, lambda tracker: tracker.finish())
        self._open.clear()

    def _send(self, step: int, values: dict[str, float]) -> None:
        for name in list(self._open):
            self._try(name, lambda tracker: tracker.log(values, step=step))

    def _try(self, name: str, action: Callable[[Any], None]) -> None:
        try:
            action(self._open[name])
        except Exception as error:  # noqa: BLE001 (each logger has errors of its own)
            del self._open[name]
            self._warn(
                f"the logger {name} has failed: {first_line(error)} The run goes on; metrics.jsonl has all steps."
            )
