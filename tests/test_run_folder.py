"""The run folder: never overwritten, continued only with its own settings, cut back to what a checkpoint holds."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from full_disk import largest_file

import expo_lite
from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.run import checkpoint
from expo_lite.run.folder import MAY_CHANGE, RunFolder, is_new, locked, read_config
from expo_lite.settings.groups import LossConfig, TaskOptions
from expo_lite.settings.schema import to_json
from expo_lite.settings.train import RunConfig, TrainConfig, resolve


def settings(folder: Path, **changes: Any) -> RunConfig:
    return resolve(TrainConfig(model="tiny", output=folder, **changes))


def reopen(folder: RunFolder, config: RunConfig) -> tuple[Path | None, list[str]]:
    """Do as a resumed run does."""
    folder.check(config)
    return folder.cut_back()


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from expo_lite.run.folder import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    refusal = rf"is being written by another process \({other.pid}\)"
    with pytest.raises(CheckpointError, match=refusal), locked(tmp_path):
        raise AssertionError("it was let in")
    other.kill()
    other.wait()
    other.stdout.close()
    with locked(tmp_path):  # the system has let go of it
        assert (tmp_path / ".lock").exists()
    assert is_new(tmp_path)  # the lock's file does not count


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with checkpoints of steps 2 and 4, killed in step 6."""
    made = RunFolder(tmp_path / "run")
    made.create(settings(made.path), device="cpu")
    made.checkpoints.mkdir(exist_ok=True)
    for step in (2, 4):
        checkpoint.save(made.checkpoints, step, write_adapter=lambda _: None, optimizer={}, state={}, keep=2)
    made.metrics.append([{"step": step, "reward": step / 10} for step in (1, 2, 3, 4, 5)])
    made.samples.append([{"step": step, "completion": f"ä\u2028{step}"} for step in (1, 2, 3, 4, 5, 6) for _ in "ab"])
    return made


def steps(folder: RunFolder) -> list[list[int]]:
    return [[row["step"] for row in file.read()] for file in (folder.metrics, folder.samples)]


def test_config_json_says_what_the_run_was_made_with(folder: RunFolder) -> None:
    about = json.loads(folder.config_file.read_text())
    assert about["settings"] == to_json(settings(folder.path))
    assert about["device"] == "cpu"
    assert set(about["versions"]) >= {"expo-lite", "torch", "transformers", "peft", "bitsandbytes", "python"}
    assert about["versions"]["torch"]
    assert "git_revision" in about
    assert read_config(folder.path) == settings(folder.path)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not here")
def test_the_revision_is_not_that_of_somebody_else_s_repository(tmp_path: Path) -> None:
    """An environment in the user's own repository, which ignores it."""
    (tmp_path / ".gitignore").write_text("venv")
    me = ("-c", "user.name=I", "-c", "user.email=i@example.com")
    for words in (("init", "-q"), ("add", "."), (*me, "commit", "-qm", "mine")):
        subprocess.run(("git", *words), cwd=tmp_path, check=True)  # noqa: S607
    package = Path(expo_lite.__file__).parent
    shutil.copytree(package, tmp_path / "venv" / "expo_lite", ignore=shutil.ignore_patterns("*.gguf", "*.safetensors"))
    ask = "from expo_lite.run import folder; print(folder.__file__, folder._git_revision())"
    found = subprocess.run(
        (sys.executable, "-c", ask), cwd=tmp_path / "venv", env=os.environ | {"PYTHONPATH": "."}, check=True,
        capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert Path(found[0]).is_relative_to(tmp_path) and found[1] == "None"


def test_what_is_known_later_is_added_and_never_changed(folder: RunFolder) -> None:
    before = json.loads(folder.config_file.read_text())
    folder.complete(template="first", prompts={"question": "a"})
    folder.complete(template="second", prompts={"question": "b"}, update_keeps="inputs")
    added = {"prompts": {"question": "a"}, "update_keeps": "inputs"}
    assert json.loads(folder.config_file.read_text()) == before | added
    assert folder.chat_template.read_text() == "first"


@pytest.mark.parametrize("what", ["a run", "someone's file", "a file in its place"])
def test_what_is_there_is_never_overwritten(what: str, folder: RunFolder, tmp_path: Path) -> None:
    path = {"a run": folder.path}.get(what, tmp_path / "other")
    if what == "someone's file":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif what == "a file in its place":
        path.write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=f"The folder '{path}' exists. Continue it with --resume"):
        RunFolder(path).create(settings(path), device="cpu")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    RunFolder(tmp_path).create(settings(tmp_path), device="cpu")
    assert read_config(tmp_path) == settings(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run"
    with pytest.raises(CheckpointError, match=f"Cannot make the folder '{path}"):
        RunFolder(path).create(settings(path), device="cpu")
    with largest_file(0), pytest.raises(CheckpointError, match=r"Cannot write .*config.json"):
        RunFolder(tmp_path / "full").create(settings(tmp_path), device="cpu")


def test_reopening_cuts_back_to_the_newest_checkpoint(folder: RunFolder) -> None:
    (folder.checkpoints / ".step-000006.tmp").mkdir()
    assert reopen(folder, settings(folder.path)) == (folder.checkpoints / "step-000004", [])
    assert steps(folder) == [[1, 2, 3, 4], [1, 1, 2, 2, 3, 3, 4, 4]]
    assert folder.samples.read()[-1]["completion"] == "ä\u20284"
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step-000002", "step-000004"]
    before = folder.metrics.path.read_bytes(), folder.samples.path.read_bytes()
    reopen(folder, settings(folder.path))
    assert (folder.metrics.path.read_bytes(), folder.samples.path.read_bytes()) == before


def test_reopening_passes_over_a_damaged_checkpoint(folder: RunFolder) -> None:
    (folder.checkpoints / "step-000004" / "state.json").write_text("{")
    found, (line,) = reopen(folder, settings(folder.path))
    assert found == folder.checkpoints / "step-000002"
    assert "step-000004' is damaged: state.json" in line
    assert steps(folder) == [[1, 2], [1, 1, 2, 2]]


def test_without_any_whole_checkpoint_nothing_is_touched(folder: RunFolder) -> None:
    for step in (2, 4):
        (folder.checkpoints / f"step-{step:06d}" / "state.json").unlink()
    before = folder.metrics.path.read_bytes(), folder.samples.path.read_bytes()
    with pytest.raises(CheckpointError, match=r"No whole checkpoint in .*step-000004.*state\.json.*step-000002"):
        reopen(folder, settings(folder.path))
    assert (folder.metrics.path.read_bytes(), folder.samples.path.read_bytes()) == before


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, r"seed \(0 there, 1 given\)"),
    ({"loss": LossConfig(kl_coef=0.1)}, r"loss\.kl_coef \(0\.0 there, 0\.1 given\)"),
    ({"group_size": 4, "problems_per_step": 2}, r"group_size .*, problems_per_step "),
    ({"data": TaskOptions(data=Path("x"))}, r"data\.data \(None there, x given\)"),
]


@pytest.mark.parametrize(("changes", "text"), OTHERS)
def test_other_settings_are_refused_and_named(changes: dict[str, Any], text: str, folder: RunFolder) -> None:
    before = folder.metrics.path.read_bytes()
    with pytest.raises(ConfigError, match=rf"The run in .* has other settings: {text}"):
        reopen(folder, settings(folder.path, **changes))
    assert folder.metrics.path.read_bytes() == before


def test_some_settings_may_change(folder: RunFolder) -> None:
    moved = settings(folder.path.parent / "elsewhere", steps=9, resume=True, save_every=3)
    assert reopen(folder, moved)[0] is not None
    assert all(field in {f.name for f in dataclasses.fields(TrainConfig)} for field in MAY_CHANGE)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, r"no run or evaluation in .*config\.json: No such file"),
        ('{"settings": ', r"config\.json has no settings"),
        ("[]", r"config\.json has no settings"),
        ('{"settings": {"stepz": 1}}', r"config\.json: unknown setting 'stepz'. Did you mean 'steps'"),
        ('{"settings": {"steps": "many"}}', r"config\.json: model is missing"),
    ],
)
def test_an_unreadable_config(text: str | None, error: str, folder: RunFolder) -> None:
    folder.config_file.unlink()
    if text is not None:
        folder.config_file.write_text(text)
    with pytest.raises((CheckpointError, ConfigError), match=error):
        reopen(folder, settings(folder.path))
    folder.config_file.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="has no settings"):
        read_config(folder.path)


def test_a_full_disk_while_reopening_loses_nothing(folder: RunFolder) -> None:
    before = folder.metrics.path.read_bytes(), folder.samples.path.read_bytes()
    with largest_file(10), pytest.raises(CheckpointError, match="Cannot write"):
        reopen(folder, settings(folder.path))
    assert (folder.metrics.path.read_bytes(), folder.samples.path.read_bytes()) == before


def test_a_run_is_not_resumed_with_fewer_steps_than_are_done(folder: RunFolder) -> None:
    message = r"has 4 steps done, and 3 are asked for\. Resume it with --steps 4 \(in Python steps=4\) or more"
    with pytest.raises(ConfigError, match=message):
        folder.check(settings(folder.path, steps=3))
    folder.check(settings(folder.path, steps=4))
