"""The public surface and the version."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import expo_lite
from expo_lite.settings.machine import PRODUCT_CACHES

ROOT = Path(__file__).parent.parent


def test_the_public_surface() -> None:
    assert sorted(expo_lite.__all__) == [
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DivergedError",
        "ExpoLiteError",
        "Grader",
        "HeldOutConfig",
        "ModelError",
        "PolicyConfig",
        "Problem",
        "TaskOptions",
        "TrainConfig",
        "__version__",
        "evaluate",
        "load_policy",
        "load_task",
        "task_from_rows",
        "train",
    ]
    assert all(hasattr(expo_lite, name) for name in expo_lite.__all__)
    assert set(expo_lite.__all__) <= set(dir(expo_lite))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        expo_lite.trian  # noqa: B018


def test_importing_the_package_does_not_wait_for_torch() -> None:
    code = "import sys, expo_lite; expo_lite.TrainConfig; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_is_set_before_torch_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Python's callers too, and not behind the back of a torch that is there."""
    import expo_lite.loop

    for name in PRODUCT_CACHES:
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
    assert expo_lite.train is expo_lite.loop.train
    assert not any(name in os.environ for name in PRODUCT_CACHES)
    monkeypatch.delitem(sys.modules, "torch")
    assert expo_lite.train is expo_lite.loop.train
    assert [os.environ[name] for name in PRODUCT_CACHES] == ["64", "64"]


def test_training_from_python_is_quiet_and_says_what_happened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from expo_lite import Grader, HeldOutConfig, PolicyConfig, TrainConfig, evaluate, load_policy, load_task, train

    held_out = HeldOutConfig(eval_problems=2, eval_samples=2)
    result = train(TrainConfig(model="tiny", steps=2, group_size=2, output=tmp_path / "run", evaluation=held_out))
    assert (result.steps, result.finished, result.folder) == (2, True, tmp_path / "run")
    assert result.before is not None
    assert result.after is not None
    with Grader() as grader:
        task = load_task("hidden-rules", grader=grader)
        policy = load_policy("tiny", PolicyConfig(), seed=0)
        again = evaluate(policy, task, task.problems("test", limit=2), held_out, max_completion_tokens=64)
    assert again == result.before  # the same problems, model and random numbers
    assert capfd.readouterr() == ("", "")
    with pytest.raises(expo_lite.CheckpointError, match="exists"):
        train(TrainConfig(model="tiny", output=tmp_path / "run"))


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == expo_lite.__version__
    newest = re.search(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
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


def test_on_native_windows_the_import_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.platform = 'win32'; import expo_lite"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "wsl --install" in done.stderr.splitlines()[-1]
