"""Loggers: what each has after a resume is read back from its own files, and held against metrics.jsonl."""

import errno
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from expo_lite.commands.cli import run
from expo_lite.errors import ConfigError
from expo_lite.results.record import read_run
from expo_lite.run import logs
from expo_lite.run.folder import JsonLines, RunFolder, read_json
from expo_lite.settings import machine
from expo_lite.settings.train import Logger

pytestmark = pytest.mark.usefixtures("unchecked")

TRAIN = "train --model tiny --group-size 2 --problems-per-step 2 --max-completion-tokens 24 --diagnostics-every 0 "
TRAIN += "--save-every 2"
EVAL = "--eval-problems 1 --eval-samples 2"
EVERY_2 = ("--eval-every", "2")
WANDB_BLOCK, WANDB_HEADER = 32_768, 7
Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Logged:
    """A run that was logged, and where Trackio writes."""

    run: Path
    trackio: Path


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """3 steps, and after a resume 4 and 5."""
    names = [name for name in ("tensorboard", "wandb", "trackio") if machine.is_installed(name)]
    if not names:
        pytest.skip("no logger is installed: uv sync --extra tensorboard --extra trackio --extra wandb")
    folder = tmp_path_factory.mktemp("logged")
    words = [*TRAIN.split(), *EVAL.split(), *EVERY_2, "--output", str(folder / "run"), "--log", *names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))  # it is read when trackio is imported
        assert run([*words, "--steps", "3"]) == 0
        assert run([*words, "--steps", "5", "--resume"]) == 0
        yield Logged(folder / "run", folder / "trackio")


def expected(run: Path) -> Curves:
    """Each metric by step, and each evaluation's figures."""
    curves: Curves = {}
    for row in JsonLines(run / "metrics.jsonl").read():
        for name, value in row.items():
            if name != "step":
                curves.setdefault(f"train/{name}", []).append((row["step"], value))
    for each in read_run(run, "run").evaluated:
        levels = each.evaluation.levels
        for own in levels:
            end = "" if own is levels[-1] else f"/level/{own.level}"
            figures = {"greedy": own.greedy.value, "pass_at_1": own.pass_at[1].value, "pass_at_2": own.pass_at[2].value}
            for name, value in figures.items():
                curves.setdefault(f"eval/{name}{end}", []).append((each.step, value))
    return curves


def check(found: Curves, run: Path) -> None:
    """Each step once, and the same figures to float32."""
    wanted = expected(run)
    assert [step for step, _ in wanted["train/reward"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in wanted["eval/pass_at_2"]] == [0, 2, 3, 4, 5]
    assert set(wanted) <= set(found)
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in points], rel=1e-6, abs=1e-12), name


def test_tensorboard_has_what_the_run_has(logged: Logged) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader: Any = EventAccumulator(str(logged.run / "tensorboard"))
    reader.Reload()
    check({tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}, logged.run)
    (settings,) = logged.run.glob("tensorboard/*/hparams.yml")
    assert "model: tiny" in settings.read_text()


def test_trackio_has_what_the_run_has(logged: Logged) -> None:
    pytest.importorskip("trackio")
    run_id = read_json(logged.run / "config.json")["run_id"]
    with sqlite3.connect(logged.trackio / f"{logs.PROJECT}.db") as database:
        rows = database.execute("select run_id, run_name, step, metrics from metrics order by step, id").fetchall()
        (config,) = [json.loads(text) for (text,) in database.execute("select config from configs")]
    assert {name for _, name, _, _ in rows} == {f"run-{run_id}"}
    assert len({own for own, _, _, _ in rows}) == 1  # resumed, not begun anew
    assert config["model"] == "tiny"
    curves: Curves = {}
    for _, _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            curves.setdefault(name, []).append((step, value))
    check(curves, logged.run)


def test_wandb_has_what_the_run_has(logged: Logged) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    protocol: Any = wandb_internal_pb2
    curves: Curves = {}
    files = sorted((logged.run / "wandb").glob("offline-run-*/*.wandb"))
    run_id = read_json(logged.run / "config.json")["run_id"]
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2  # one a process, the same run
    for file in files:
        for data in wandb_records(file.read_bytes()):
            record = protocol.Record()
            record.ParseFromString(data)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                curves.setdefault(name, []).append((record.history.step.num, float(json.loads(item.value_json))))
    check(curves, logged.run)


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Records in LevelDB's log format: blocks of chunks with checksum, length and kind (whole, first, middle, last)."""
    at, parts = WANDB_HEADER, b""
    while at + 7 <= len(data):
        if WANDB_BLOCK - at % WANDB_BLOCK < 7:  # no chunk begins so near to a block's end
            at += WANDB_BLOCK - at % WANDB_BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


class Kept:
    """A tracker that keeps what it is sent, and whose disk is full from the step `full_at` on."""

    def __init__(self) -> None:
        self.full_at = 10**9
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.opened: list[tuple[str, bool]] = []

    def open(self, name: str, folder: Path, run_id: str, settings: dict[str, Any], *, resumed: bool) -> "Kept":
        assert settings["sampling.temperature"] == 1.0
        self.opened.append((name, resumed))
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if step >= self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.sent.append((step, dict(values)))

    def finish(self) -> None:
        pass


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    tracker = Kept()
    monkeypatch.setattr(logs, "open_tracker", tracker.open)
    monkeypatch.setattr(machine, "is_installed", lambda name: name == "tensorboard")
    return tracker


def test_a_logger_that_fails_is_told_once_and_a_resumed_run_sends_what_is_new(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{TRAIN} {EVAL} --output {tmp_path / 'run'} --log tensorboard".split()
    assert run([*words, "--steps", "1"]) == 0
    kept.full_at = 3
    assert run([*words, "--steps", "3", "--resume"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "the logger" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: the logger tensorboard has failed: [Errno 28]")
    assert [step for step, _ in kept.sent] == [0, 1, 1, 2]  # the evaluations before and after step 1 too
    rows = JsonLines(tmp_path / "run" / "metrics.jsonl").read()
    assert kept.sent[3][1]["train/reward"] == rows[1]["reward"]
    assert kept.opened == [("tensorboard", False), ("tensorboard", True)]


def test_a_missing_extra_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "is_installed", lambda name: False)
    assert run(["train", "--log", "wandb", "--output", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: logger 'wandb' is not installed: in the clone, `uv sync --extra wandb`")
    assert run(["train", "--log", "mlflow", "--output", str(tmp_path / "run")]) == 2
    assert "`uv pip install mlflow`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_logger_is_a_tracker_of_accelerate() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(get_args(Logger)) == set(LOGGER_TYPE_TO_CLASS)


def test_one_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(logs, "open_tracker", refuse)
    folder = RunFolder(tmp_path)
    folder.config_file.write_text('{"run_id": "0123abcd"}')
    with pytest.raises(ConfigError, match=r"logger tensorboard cannot be started: No API key .* leave it out of --log"):
        logs.Logs(["tensorboard"], folder, {}, pytest.fail, resumed=False)
    logs.Logs([], folder, {}, pytest.fail, resumed=False).step({"step": 1, "reward": 0.5})  # nothing is looked at
