"""A run that was killed, interrupted or stopped by an error, and resumed, is the run that was not.

The same adapter to the byte, and the same files but for times.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_runs import ForkedRuns, wait_until
from full_disk import small_disk

from expo_lite.run import checkpoint
from expo_lite.settings.metrics import TIMES

STEPS = 6
WORDS = (
    f"train --model tiny --levels 1 2 --train-problems 3 --steps {STEPS} --save-every 2 --group-size 3"
    " --problems-per-step 2 --max-completion-tokens 40 --eval-problems 1 --eval-samples 2"
    " --explain all --explanation-filter none --explanation-refresh-steps 3 --exp-sft-schedule linear"
    " --lr-schedule cosine --warmup-steps 1 --updates-per-batch 2 --kl-coef 0.01 --diagnostics-every 3"
).split()
KILLS = [
    ("sampling", 30),  # in the evaluation before training
    ("sampling", 100),  # in step 1
    ("saving the adapter", 1),  # of step 2, the first checkpoint
    ("flushing the checkpoint", 2),
    ("renaming the checkpoint", 1),
    ("in the update", 6),  # of step 3, the second update on the same batch; there is a checkpoint now
    ("writing samples or metrics", 2),  # samples are written, metrics are not
    ("half a line", 1),
    ("replacing a file", 1),  # while it is resumed
    ("replacing a file", 2),
    ("half a line", 4),
    ("flushing the checkpoint", 6),  # of step 4, which is in its place by now
    ("in the update", 2),
    ("removing an old checkpoint", 2),
    ("replacing a file", 3),  # the evaluation after training
]


@pytest.fixture(scope="module")
def runs() -> Iterator[ForkedRuns]:
    started = ForkedRuns()
    yield started
    started.close()


@pytest.fixture(scope="module")
def unbroken(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    code = runs.run(*WORDS, "--output", str(folder), log=folder.parent / "log")
    assert code == 0, (folder.parent / "log").read_text()
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def wait_for_steps(folder: Path, n: int) -> None:
    file = folder / "metrics.jsonl"
    wait_until(lambda: file.exists() and len(rows(file)) >= n)


def check_equal(folder: Path, unbroken: Path) -> None:
    ours, theirs = (path / "checkpoints" for path in (folder, unbroken))
    for path in sorted(theirs.rglob("*")):
        if path.is_file():
            assert (ours / path.relative_to(theirs)).read_bytes() == path.read_bytes(), path
    timeless = [
        [{key: value for key, value in row.items() if key not in TIMES} for row in rows(path / "metrics.jsonl")]
        for path in (folder, unbroken)
    ]
    assert [row["step"] for row in timeless[1]] == list(range(1, STEPS + 1))
    assert timeless[0] == timeless[1]
    names = ["samples.jsonl", "evaluation/step-000000.json", f"evaluation/step-{STEPS:06d}.json"]
    for name in names:
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_the_unbroken_run_is_worth_comparing_with(unbroken: Path) -> None:
    """It learns, keeps explanations between steps, and has samples that differ."""
    metrics = rows(unbroken / "metrics.jsonl")
    assert all(row["loss"] != 0 and row["grad_norm"] > 0 and row["kl"] >= 0 for row in metrics)
    assert set(TIMES) - {"memory/peak_reserved_gib"} <= set(metrics[-1])  # which only a GPU has
    newest, _ = checkpoint.newest_whole(unbroken / "checkpoints")
    assert newest is not None
    assert checkpoint.load_state(newest)["explanations"]
    kept = [row["completion"] for row in rows(unbroken / "samples.jsonl") if row["kind"] == "explanation"]
    assert len(set(kept)) < len(kept)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again_at_any_moment(runs: ForkedRuns, unbroken: Path, tmp_path: Path) -> None:
    """One run, killed and resumed until it ends; after each kill its newest checkpoint is whole."""
    folder = tmp_path / "run"
    for moment in KILLS:
        resume = ["--resume"] if folder.exists() else []
        code = runs.run(*WORDS, "--output", str(folder), *resume, log=tmp_path / "log", die=moment)
        assert code == -signal.SIGKILL, (moment, (tmp_path / "log").read_text())
        found, damaged = checkpoint.newest_whole(folder / "checkpoints")
        assert damaged == []
        assert found is not None or not list((folder / "checkpoints").glob("step-*"))
    assert runs.run(*WORDS, "--output", str(folder), "--resume", log=tmp_path / "log") == 0
    assert f"resumed at step {STEPS}" in (tmp_path / "log").read_text()
    check_equal(folder, unbroken)


def test_killed_from_outside(runs: ForkedRuns, unbroken: Path, tmp_path: Path) -> None:
    """Not at a moment of our choice: whenever the signal arrives, once the file has so many lines."""
    folder = tmp_path / "run"
    for n in (1, 4):
        resume = ["--resume"] if folder.exists() else []
        pid = runs.start(*WORDS, "--output", str(folder), *resume, log=tmp_path / "log")
        wait_for_steps(folder, n)
        os.kill(pid, signal.SIGKILL)
        assert runs.wait() == -signal.SIGKILL
    assert runs.run(*WORDS, "--output", str(folder), "--resume", log=tmp_path / "log") == 0
    check_equal(folder, unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(
    number: signal.Signals, runs: ForkedRuns, unbroken: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    pid = runs.start(*WORDS, "--output", str(folder), log=log)
    wait_for_steps(folder, 1)
    os.killpg(pid, number)
    assert runs.wait() == 130
    text = log.read_text()
    assert "Finishing what is being computed and saving; press Ctrl-C again to stop at once." in text
    step = rows(folder / "metrics.jsonl")[-1]["step"]
    assert 1 <= step < STEPS
    assert f"Stopped and saved after step {step}. Continue with: `expo-lite train --resume --output {folder}`\n" in text
    found, damaged = checkpoint.newest_whole(folder / "checkpoints")
    assert (found, damaged) == (folder / "checkpoints" / f"step-{step:06d}", [])
    if number is signal.SIGTERM:
        return  # it goes on as after the other
    assert runs.run("train", "--resume", "--output", str(folder), log=log) == 0  # its settings are in its folder
    assert f"resumed at step {step} from" in log.read_text()
    if step % 2 == 0:  # else it has a checkpoint more than the unbroken run
        check_equal(folder, unbroken)
    last = f"step-{STEPS:06d}"
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (path / "checkpoints" / last / name for path in (folder, unbroken))
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_evaluation_that_is_killed_goes_on_exactly(runs: ForkedRuns, tmp_path: Path) -> None:
    words = "eval tiny --problems 3 --samples 3 --sampling-rows 4 --max-completion-tokens 40 --output".split()
    file, log = tmp_path / "killed" / "samples.jsonl", tmp_path / "log"
    pid = runs.start(*words, str(tmp_path / "killed"), log=log)
    wait_until(lambda: file.exists() and file.stat().st_size > 2_000)
    os.kill(pid, signal.SIGKILL)
    assert runs.wait() == -signal.SIGKILL
    assert 0 < file.read_bytes().count(b"\n") < 15 * 4
    assert runs.run(*words, str(tmp_path / "killed"), "--resume", log=log) == 0
    assert runs.run(*words, str(tmp_path / "whole"), log=log) == 0
    for name in ("samples.jsonl", "evaluation.json"):
        a, b = ((tmp_path / folder / name).read_text() for folder in ("killed", "whole"))
        if name == "evaluation.json":
            a, b = (str(json.loads(text)["evaluation"]) for text in (a, b))
        assert a == b


def test_a_second_ctrl_c_stops_at_once(runs: ForkedRuns, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    words = "train --model tiny --levels 5 --steps 9 --eval-problems 0 --group-size 60 --problems-per-step 8"
    pid = runs.start(*words.split(), "--output", str(folder), log=log)
    wait_for_steps(folder, 1)
    time.sleep(0.1)  # well into the second step, of seconds
    os.killpg(pid, signal.SIGINT)
    wait_until(lambda: "press Ctrl-C again" in log.read_text())
    os.killpg(pid, signal.SIGINT)
    assert runs.wait() == 130
    assert log.read_text().endswith("interrupted\n")
    assert not list((folder / "checkpoints").iterdir())  # nothing was finished, nothing was saved


def test_a_disk_that_fills_up_while_saving_costs_nothing(runs: ForkedRuns, unbroken: Path, tmp_path: Path) -> None:
    size_kib = sum(p.stat().st_size for p in (unbroken / "checkpoints" / f"step-{STEPS:06d}").iterdir()) // 1024
    with small_disk(tmp_path / "disk", int(2.6 * size_kib)) as disk:
        words, log = [*WORDS, "--output", str(disk / "run")], tmp_path / "log"
        assert runs.run(*words, log=log) == 1
        (error,) = (line for line in log.read_text().splitlines() if line.startswith("error: "))
        assert error.startswith(f"error: Cannot save checkpoint '{disk}/run/checkpoints/step-000006'")
        assert "No space left on device" in error
        assert error.endswith(f"room on the disk. Then go on with `expo-lite train --resume --output {disk}/run`.")
        found, damaged = checkpoint.newest_whole(disk / "run" / "checkpoints")
        assert (found, damaged) == (disk / "run" / "checkpoints" / "step-000004", [])
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)  # noqa: S607
        assert runs.run(*words, "--resume", log=log) == 0
        check_equal(disk / "run", unbroken)
