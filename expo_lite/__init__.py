"""expo-lite: teach a language model what it cannot yet do, by having it explain right answers to itself (ExPO).

`expo-lite --help` is the command line. From Python:

    from expo_lite import TrainConfig, train
    result = train(TrainConfig(model="tiny", steps=20))

Importing this package does not wait for torch; the first use of a function that needs it does. Where torch is not there
yet, that also sets the variables that keep a long run's memory from growing (`settings.machine.prepare_torch`), unless
they are set.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "On Windows, expo-lite runs in WSL2, GPU included: run `wsl --install`, then the same commands there."
    )

from expo_lite.errors import CheckpointError, ConfigError, DataError, DivergedError, ExpoLiteError, ModelError
from expo_lite.records import Problem
from expo_lite.settings.groups import (
    DpoConfig,
    ExpoConfig,
    HeldOutConfig,
    LossConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    TaskOptions,
)
from expo_lite.settings.train import TrainConfig

if TYPE_CHECKING:
    from expo_lite.grading import Grader
    from expo_lite.loop import train
    from expo_lite.measure.evaluate import evaluate
    from expo_lite.policy.factory import load_policy
    from expo_lite.tasks import load_task
    from expo_lite.tasks.rows import task_from_rows

__version__ = "0.1.0"

_LATE = {
    "Grader": "expo_lite.grading",
    "evaluate": "expo_lite.measure.evaluate",
    "load_policy": "expo_lite.policy.factory",
    "load_task": "expo_lite.tasks",
    "task_from_rows": "expo_lite.tasks.rows",
    "train": "expo_lite.loop",
}

__all__ = [
    "CheckpointError", "ConfigError", "DataError", "DivergedError", "DpoConfig", "ExpoConfig", "ExpoLiteError",
    "Grader", "HeldOutConfig", "LossConfig", "ModelError", "OptimizerConfig", "PolicyConfig", "Problem",
    "RolloutConfig", "TaskOptions", "TrainConfig", "__version__", "evaluate", "load_policy", "load_task",
    "task_from_rows", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module 'expo_lite' has no attribute '{name}'")
    if name in ("evaluate", "load_policy", "train") and "torch" not in sys.modules:
        from expo_lite.settings.machine import prepare_torch

        prepare_torch(os.environ)
    return getattr(importlib.import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    """List the public names and no others, also those that are not imported yet."""
    return __all__
