"""expo-lite: teach a language model what it cannot yet do, by having it explain right answers to itself (ExPO).

The command line is the way in (`expo-lite --help`). What stands here can be imported without waiting for torch;
`expo_lite.loop.train(resolve(TrainConfig(...)))` is what `expo-lite train` calls.
"""

from expo_lite.errors import CheckpointError, ConfigError, DataError, DivergedError, ExpoLiteError, ModelError
from expo_lite.settings.config import TrainConfig, resolve

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "ExpoLiteError",
    "ModelError",
    "TrainConfig",
    "__version__",
    "resolve",
]
