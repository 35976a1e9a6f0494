"""Native Windows: what only looks works, what computes or grades is refused in one line; shown by taking Unix away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from expo_lite.commands.cli import run
from expo_lite.errors import ConfigError
from expo_lite.grading import Grader
from expo_lite.policy.base import load_policy
from expo_lite.settings.groups import PolicyConfig

WITHOUT_UNIX = """
import gc, importlib, os, pkgutil, signal, sys
gc.disable()
import expo_lite
here = [m.name for m in pkgutil.walk_packages(expo_lite.__path__, "expo_lite.")]
# not the two that are started as processes of their own, nor Unsloth's backend, which is an extra
mine = [n for n in here if not n.endswith(("grading.worker", "reasoning_gym_worker", "policy.unsloth", "__main__"))]
assert len(mine) > 80
for name in mine:
    importlib.import_module(name)  # with it what it is built on, which takes what it finds
for name in [n for n in sys.modules if n.partition(".")[0] == "expo_lite"]:
    del sys.modules[name]
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None  # importing it raises ImportError
for name in ("fork", "geteuid", "getuid", "sysconf", "killpg", "setsid"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "setitimer", "alarm"):
    delattr(signal, name)
for name in mine:
    importlib.import_module(name)
from expo_lite.commands.cli import run
codes = [run(words.split()) for words in ("plan --vram 24", "plan", "models", "tasks", "report " + sys.argv[1])]
assert codes == [0, 2, 0, 0, 0], codes
"""


def test_all_modules_import_and_what_only_looks_works_without_unix(tmp_path: Path) -> None:
    words = ["train", "--model", "tiny", "--steps", "1", "--group-size", "2", "--problems-per-step", "1"]
    small = ["--eval-problems", "0", "--max-completion-tokens", "4", "--output", str(tmp_path / "run")]
    assert run([*words, *small]) == 0
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr
        == "error: The size of main memory cannot be read on this system. Plan for a GPU, as with --vram 24.\n"
    )


def test_what_computes_or_grades_is_refused_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = tmp_path / "replies.jsonl"
    replies.write_text('{"gold": "1", "reply": "1"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expo_lite.settings.machine.on_windows", lambda: True)
    monkeypatch.setattr("expo_lite.grading.grader.on_windows", lambda: True)
    for words in (
        ["train"],
        ["eval", "tiny"],
        ["diagnose"],
        ["replicate"],
        ["grade", str(replies)],
    ):
        assert run(words) == 2
        assert "wsl --install" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="WSL2"):
        load_policy("tiny", PolicyConfig(), seed=0)
    with pytest.raises(ConfigError, match="WSL2"):
        Grader()
    assert [path.name for path in tmp_path.iterdir()] == ["replies.jsonl"]
