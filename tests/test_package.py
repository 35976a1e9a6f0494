"""The public surface and the version."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

import expo_lite
from expo_lite.settings.machine import PRODUCT_CACHES
from expo_lite.terminal import Terminal, say

ROOT = Path(__file__).parent.parent


def test_the_public_surface() -> None:
    assert sorted(expo_lite.__all__) == [
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DivergedError",
        "DpoConfig",
        "ExpoConfig",
        "ExpoLiteError",
        "Grader",
        "HeldOutConfig",
        "LossConfig",
        "ModelError",
        "OptimizerConfig",
        "PolicyConfig",
        "Problem",
        "RolloutConfig",
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
    assert dir(expo_lite) == sorted(expo_lite.__all__)  # and nothing else: it is what a notebook offers
    groups = {type(getattr(expo_lite.TrainConfig(), field.name)) for field in fields(expo_lite.TrainConfig)}
    assert {group.__name__ for group in groups if is_dataclass(group)} <= set(expo_lite.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        expo_lite.trian  # noqa: B018


def test_importing_the_package_does_not_wait_for_torch() -> None:
    code = "import sys, expo_lite; dir(expo_lite), expo_lite.TrainConfig; sys.exit('torch' in sys.modules)"
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
    table, _, last = str(result).rpartition("\n")
    assert last == f"2 steps: {tmp_path / 'run'}"
    assert "before" in table and "after" in table and "pass@1" in table
    assert str(replace(result, steps=1, after=None, finished=False)) == f"1 step, not finished: {tmp_path / 'run'}"
    with pytest.raises(expo_lite.CheckpointError, match="exists"):
        train(TrainConfig(model="tiny", output=tmp_path / "run"))


@pytest.mark.parametrize(
    ("terminal", "quiet", "says"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_training_from_python_shows_progress_where_someone_looks(
    terminal: bool, quiet: bool, says: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def train_on(_task: object, config: object, console: Terminal) -> None:
        say(console, f"training {config}")

    monkeypatch.setattr("expo_lite.loop.train_on", train_on)
    monkeypatch.setattr("expo_lite.loop.resolve_run", lambda config: config.model)
    monkeypatch.setattr(Terminal, "is_terminal", terminal)
    task = expo_lite.task_from_rows([{"question": "1 + 1", "answer": "2"}])
    expo_lite.train(expo_lite.TrainConfig(model="tiny"), task=task, quiet=quiet)
    assert capsys.readouterr().out == ("training tiny\n" if says else "")


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its code cells one after the other, in this process: Jupyter is not installed. Only the amount is smaller."""
    notebook = json.loads((ROOT / "examples" / "notebooks" / "first_run.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    few = {"steps=100": "steps=1", "eval_problems=40, eval_samples=16": "eval_problems=1, eval_samples=2"}
    assert all(amount in cells[0] for amount in few)
    for amount, fewer in few.items():
        cells[0] = cells[0].replace(amount, fewer)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, "first_run.ipynb", "exec"), names)  # noqa: S102 (our own text)
    out = capsys.readouterr().out
    assert "1 step: runs/first-notebook\n" in out and "2 steps: runs/first-notebook-doubles\n" in out
    assert re.search(r"level 5: \d+% of single tries are right", out)
    assert not any(cell.get("outputs") for cell in notebook["cells"])


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
