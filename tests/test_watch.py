"""The dashboard of a run, from its folder alone; a train on a terminal: never silent, and as large as planned."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_run import make_run

from expo_lite.commands import cli
from expo_lite.commands.report import Watch
from expo_lite.run.dashboard import RunState, closing, closing_of_runs, panel, read_progress, read_state
from expo_lite.run.folder import locked
from expo_lite.terminal import Terminal

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SILENCE_S = 2.0


def shown(state: RunState, width: int) -> str:
    file = io.StringIO()
    Terminal(file=file, width=width).print(panel(state, width))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_fits(tmp_path: Path, width: int) -> None:
    run = make_run(tmp_path / "run", steps=50, words=60, text="\x1b[2J[bold]It is")
    text = shown(read_state(run), width)
    assert max(map(len, text.splitlines())) <= width
    assert "50/50" in text
    assert "\\x1b[2J[bold]It is" in text.replace("\n", "")
    assert "\x1b" not in text
    assert "a wrong try" in text
    rewards = [json.loads(line)["reward"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    ends = f"{rewards[0]:.0%} -> {rewards[-1]:.0%}"  # at any width: of 40 stretches the first and the last have 1 step
    assert re.search(rf"^reward +[▁-█]{{{10 if width < 80 else 25},}}  {ends} *$", text, re.MULTILINE)
    assert "…" not in text


def test_a_run_says_whether_it_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4)
    assert "has finished: `expo-lite report" in str(closing(read_state(run), run))
    config = json.loads((run / "config.json").read_text())
    config["settings"]["steps"] = 9
    (run / "config.json").write_text(json.dumps(config))
    assert "not finished (4 of 9 steps)" in str(closing(read_state(run), run))  # no lock: nobody writes it
    with locked(run):
        assert closing(read_state(run), run) is None
    (run / ".lock").write_text("4194305\n")  # above the largest process id there can be
    assert "--resume" in str(closing(read_state(run), run))


def test_half_written_lines_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4)
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 5, "kind": "roll')
    assert read_state(run).step == 4
    assert all("kind" in row for row in read_state(run).samples)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", steps=4)
    assert cli.run(["watch", str(run)]) == 0  # no terminal: once
    out = capsys.readouterr().out
    assert "\nThe run has finished" in out
    assert "\x1b" not in out
    for number, text in enumerate(('{"levels": [', "{}", '{"levels": []}')):  # one bad file does not stop the watch
        (run / "evaluation" / f"step-00000{number + 1}.json").write_text(text)
    assert cli.run(["watch", str(run)]) == 0
    assert "step 1: damaged; step 2: damaged; step 3: damaged; step 4 pass@1" in capsys.readouterr().out
    assert cli.run(["watch", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith("it has no config.json. Give the folder that train made.\n")


def test_the_time_left_of_several_runs_by_hand(tmp_path: Path) -> None:
    """One took 60 s, half of another 30 s, a third has not begun: one and a half runs are left."""
    runs = [(tmp_path / name, 6) for name in ("a", "b", "c")]
    for (path, steps), n_rows in zip(runs, (6, 3), strict=False):
        make_run(path, steps=steps)
        rows = [json.loads(row) | {"step_time": 10.0} for row in (path / "metrics.jsonl").read_text().splitlines()]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:n_rows]))
        os.utime(path / "config.json", (1e9, 1e9))  # begun long ago, and resumed today
    (tmp_path / "b" / "evaluation" / "step-000006.json").unlink()
    assert read_progress(runs).seconds_left == pytest.approx(1.5 * 60)
    with locked(tmp_path / "b"):
        state = read_progress(runs)
        assert closing_of_runs(state, tmp_path) is None
    assert state.seconds_left == pytest.approx(1.5 * 60)
    assert str(state) == "1 of 3 runs, about 90 s left"
    assert [(run.step, run.steps) for run in state.at_work] == [(3, 6)]
    assert "1 of 3 are finished" in str(closing_of_runs(read_progress(runs), tmp_path))


def test_a_folder_of_runs_is_watched_looked_at_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name, steps=4)
    (tmp_path / "runs" / "eval-x").mkdir()
    (tmp_path / "runs" / "eval-x" / "config.json").write_text('{"settings": {"task": "math"}}')
    assert cli.run(["watch", str(tmp_path / "runs")]) == 0
    assert "2 of 2 runs\nAll 2 runs are finished" in re.sub(" +\n", "\n", capsys.readouterr().out)
    cli.run(["doctor", str(tmp_path / "runs")])
    out = capsys.readouterr().out
    assert "a: nothing wrong" in out
    assert "b: nothing wrong" in out
    assert cli.run(["report", str(tmp_path / "runs"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["label"] for run in found["runs"]] == ["a", "b"]


def test_a_run_that_is_starting_is_waited_for(tmp_path: Path) -> None:
    watch = Watch(folder=tmp_path / "run")
    view, last = watch.look(80, [], waiting=True)
    assert "waiting for a run" in str(view)
    assert last is None
    make_run(tmp_path / "run", steps=4)
    assert "has finished" in str(watch.look(80, [], waiting=True)[1])


def on_a_terminal(words: Sequence[str], columns: int, resize_to: int | None = None) -> tuple[str, float]:
    """The output of a command on a terminal, and the longest silence before its end, seconds."""
    parent, child = pty.openpty()

    def resize(width: int) -> None:
        fcntl.ioctl(parent, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))

    resize(columns)
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "expo_lite", *words], stdin=child, stdout=child, stderr=child, env=environment
    )
    os.close(child)
    pieces: list[bytes] = []
    last, longest = time.monotonic(), 0.0
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        now = time.monotonic()
        # until the first word Python itself is starting
        longest, last = max(longest, now - last if pieces else 0.0), now
        pieces.append(piece)
        if resize_to and b"steps" in piece:
            resize(resize_to)
            resize_to = None
    os.close(parent)
    assert process.wait() == 0
    return b"".join(pieces).decode(), longest


def test_train_is_never_silent_fits_the_terminal_and_its_memory_is_as_planned(tmp_path: Path) -> None:
    """Every problem explained and every chain taken, so that updates are as large as planned."""
    words = "train --model tiny --steps 3 --explain all --explanation-filter none --eval-problems 4 --eval-samples 4"
    text, silence = on_a_terminal([*words.split(), "--output", str(tmp_path / "run")], 80)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert silence < SILENCE_S * max(load, 1.0)  # on a busy machine everything takes longer
    plain = ESCAPES.sub("", text).replace("\r", "\n")
    for said in ("starting ...", "loading tiny ...", "checking that sampler and scorer agree", "evaluating", "3/3"):
        assert said in plain
    table = plain[plain.rindex("level  problems") :]
    assert max(len(line) for line in table.splitlines() if line.startswith(" ")) <= 80  # others name paths
    assert "…" not in table
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    # rows end before the limit, and those of a group share their prompt: the plan is for the worst
    assert 0.7 < last["peak_memory_gib"] / last["memory/planned_gib"] < 1.02


@pytest.mark.slow
def test_a_terminal_that_is_resized(tmp_path: Path) -> None:
    words = "train --model tiny --steps 30 --eval-problems 0 --output".split()
    text, _ = on_a_terminal([*words, str(tmp_path / "run")], 120, resize_to=70)
    last = ESCAPES.sub("", text[text.rindex("30/30") :])
    assert max(map(len, last.replace("\r", "\n").splitlines())) <= 120
