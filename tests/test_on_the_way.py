"""Evaluations during training: they change nothing, the best checkpoint is kept."""

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forked_runs import wait_until
from made_run import write_evaluation

from expo_lite.commands import cli
from expo_lite.measure.evaluate import evaluate_and_compare
from expo_lite.run.folder import RunFolder
from expo_lite.run.progress import StopRequests
from expo_lite.run.target import find_target
from expo_lite.settings.groups import HeldOutConfig
from expo_lite.terminal import Terminal

pytestmark = pytest.mark.usefixtures("unchecked")

SHORT = "--group-size 2 --problems-per-step 2 --max-completion-tokens 32 --diagnostics-every 0 --eval-samples 2"


def train(folder: Path, words: str) -> None:
    command = f"train --model tiny {SHORT} {words}".split()
    assert cli.run([*command, "--output", str(folder)]) == 0


def adapter(run: Path, name: str) -> bytes:
    return (run / "checkpoints" / name / "adapter_model.safetensors").read_bytes()


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    train(tmp_path / "plain", "--steps 4 --eval-problems 0")
    train(tmp_path / "measured", "--steps 4 --eval-problems 1 --eval-every 2")
    assert adapter(tmp_path / "plain", "step-000004") == adapter(tmp_path / "measured", "step-000004")
    samples = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("plain", "measured")]
    assert samples[0] == samples[1]
    measured = sorted(path.name for path in (tmp_path / "measured" / "evaluation").glob("*.json"))
    assert measured == ["step-000000.json", "step-000002.json", "step-000004.json"]
    assert (tmp_path / "measured" / "checkpoints" / "step-000002").is_dir()  # saved, so that it could be kept


def test_the_best_checkpoint_is_kept_while_newer_ones_come_and_go(tmp_path: Path) -> None:
    train(tmp_path / "run", "--steps 4 --eval-problems 0 --save-every 1")
    folder = RunFolder(tmp_path / "run")
    evaluation = HeldOutConfig(eval_every=2)  # and once it ended after step 3
    run: Any = SimpleNamespace(
        folder=folder, step=3, held_out=[1], config=SimpleNamespace(evaluation=evaluation, steps=9)
    )
    said = io.StringIO()
    console, stops = Terminal(file=said, width=100), StopRequests(Terminal(quiet=True))
    for step, n_correct in ((0, (1, 1)), (3, (3, 2)), (4, (1, 2)), (5, (3, 2))):
        write_evaluation(folder.evaluation_file(step), n_correct)
    evaluate_and_compare(run, console, stops)
    assert "step 3: pass@1 62.5% (the best so far: " in said.getvalue()  # 5 of 8
    kept = tmp_path / "run" / "checkpoints" / "best"
    assert adapter(tmp_path / "run", "best") == adapter(tmp_path / "run", "step-000003")
    target = find_target(str(kept))
    assert (target.run, target.label) == (tmp_path / "run", "run-best")

    run.step = 4
    evaluate_and_compare(run, console, stops)
    assert "step 4: pass@1 37.5% (best: 62.5% at step 3)" in said.getvalue()
    run.step = 5
    evaluate_and_compare(run, console, stops)  # as good is not better
    assert "step 5: pass@1 62.5% (best: 62.5% at step 3)" in said.getvalue()
    assert adapter(tmp_path / "run", "best") == adapter(tmp_path / "run", "step-000003")


def test_a_run_in_another_thread_has_no_signals() -> None:
    """Python gives them to the main one alone."""
    failures: list[BaseException] = []

    def open_and_close() -> None:
        try:
            with StopRequests(Terminal(quiet=True)) as stops:
                assert not stops.requested
        except ValueError as error:
            failures.append(error)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=open_and_close)
    thread.start()
    thread.join()
    assert failures == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_resumed_run_trains_on_the_problems_that_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, more = tmp_path / "sums.jsonl", "--eval-problems 2 --save-every 1"
    for first, code in ((2, 0), (2, 0), (3, 2)):
        file.write_text("".join(f'{{"question": "{a} + 1?", "answer": "{a + 1}"}}\n' for a in range(first, 30)))
        words = f"train --model tiny --task jsonl:{file} {SHORT} {more} --steps {2 if code else 1}".split()
        resume = ["--resume"] * (tmp_path / "run").exists()
        assert cli.run([*words, *resume, "--output", str(tmp_path / "run")]) == code
    assert "are not those that the run in" in capsys.readouterr().err


AT_WORK = """
import pathlib, signal, sys, time
from expo_lite.run.progress import Display, StopRequests
from expo_lite.terminal import Terminal
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))  # whatever the process that runs the tests ignores
signal.signal(signal.SIGINT, signal.default_int_handler)
console = Terminal()
with StopRequests(console) as stops, Display(console, 10**6) as display:
    console.print("begun")
    pathlib.Path("ready").touch()
    deadline = time.monotonic() + float(sys.argv[2])
    while not stops.requested and time.monotonic() < deadline:
        if sys.stdout.isatty():
            display.step({"step": 1, "reward": 0.1, "step_time": 0.05})
        time.sleep(0.02)
pathlib.Path("ended").write_text("saved" if stops.requested else "went on")
"""


@pytest.mark.parametrize(("hang_up", "seconds", "ended"), [("SIG_DFL", "60", "saved"), ("SIG_IGN", "2", "went on")])
def test_a_terminal_that_closes_asks_for_a_stop_unless_that_is_ignored(
    hang_up: str, seconds: str, ended: str, tmp_path: Path
) -> None:
    """The process leads a session, so the terminal that it opens is its own; `nohup` ignores the signal."""
    master, slave = pty.openpty()
    script = f'exec "$@" < {os.ttyname(slave)} > /dev/tty 2>&1'
    words = ["/bin/sh", "-c", script, "sh", sys.executable, "-c", AT_WORK, hang_up, seconds]
    process = subprocess.Popen(words, cwd=tmp_path, start_new_session=True)
    os.close(slave)
    wait_until((tmp_path / "ready").exists)
    os.close(master)
    assert process.wait(120) == 0
    assert (tmp_path / "ended").read_text() == ended


def test_ctrl_c_that_ends_the_reader_too_asks_for_a_stop(tmp_path: Path) -> None:
    """As in `expo-lite train | tee log`."""
    words = [sys.executable, "-c", AT_WORK, "SIG_DFL", "60"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE)
    wait_until((tmp_path / "ready").exists)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    assert (tmp_path / "ended").read_text() == "saved"


def test_what_needs_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--model", "tiny", "--eval-every", "5", "--eval-problems", "0"]) == 2
    assert "eval_every needs --eval-problems" in capsys.readouterr().err
