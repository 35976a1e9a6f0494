"""The public surface and the version."""

import re
import tomllib
from pathlib import Path

import expo_lite

ROOT = Path(__file__).parent.parent


def test_the_public_surface() -> None:
    assert sorted(expo_lite.__all__) == [
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
    assert all(hasattr(expo_lite, name) for name in expo_lite.__all__)


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == expo_lite.__version__
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == expo_lite.__version__


def test_the_package_is_typed() -> None:
    assert (ROOT / "expo_lite" / "py.typed").exists()


def test_every_error_has_an_exit_code() -> None:
    errors = [getattr(expo_lite, name) for name in expo_lite.__all__ if name.endswith("Error")]
    assert {error.__name__: error.exit_code for error in errors} == {
        "CheckpointError": 1,
        "ConfigError": 2,
        "DataError": 1,
        "DivergedError": 1,
        "ExpoLiteError": 1,
        "ModelError": 1,
    }
