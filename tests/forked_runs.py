"""Runs in processes that can be killed, without loading torch for each: one process loads it and forks a run at a time.

`python forked_runs.py` reads a JSON line {"words", "log", "die"} from its input and forks a process that carries out
the command line `words`, its output in the file `log`; it answers with the process's id and, when that has ended, with
its exit code. `die` is [MOMENT, N]: at the Nth time that the run comes to that moment it kills itself with SIGKILL, in
the middle of whatever it is doing, as a kill from outside would that came then.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

END_S = 240.0


class ForkedRuns:
    """The side of the tests."""

    def __init__(self) -> None:
        """Start the process that forks; one thread makes forking safe, and results the same everywhere."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def start(self, *words: str, log: Path, die: tuple[str, int] | None = None) -> int:
        """Start a run; returns its process id."""
        inbox, outbox = self._pipes()
        inbox.write(json.dumps({"words": words, "log": str(log), "die": die}) + "\n")
        inbox.flush()
        return int(outbox.readline())

    def wait(self) -> int:
        """The exit code of the run that was started; negative: the signal that killed it."""
        return int(self._pipes()[1].readline())

    def run(self, *words: str, log: Path, die: tuple[str, int] | None = None) -> int:
        """Start a run and wait for its end."""
        self.start(*words, log=log, die=die)
        return self.wait()

    def close(self) -> None:
        """End the process that forks."""
        for pipe in self._pipes():
            pipe.close()
        assert self._process.wait(END_S) == 0


def wait_until(holds: Callable[[], bool]) -> None:
    """Look every 5 ms; fail after a few minutes."""
    deadline = time.monotonic() + END_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_at(moment: str, n: int) -> None:
    """Arrange for this process to kill itself at the nth time that it comes to a moment."""
    from expo_lite.policy import slots
    from expo_lite.policy.hf import HfPolicy
    from expo_lite.run import checkpoint
    from expo_lite.run.folder import JsonLines
    from expo_lite.step import learn

    places: dict[str, tuple[Any, str]] = {
        "sampling": (slots, "choose"),
        "in the update": (learn, "sft_loss"),
        "writing samples or metrics": (JsonLines, "append"),
        "saving the adapter": (HfPolicy, "save_adapter"),
        "flushing the checkpoint": (checkpoint, "_flush"),
        "renaming the checkpoint": (Path, "rename"),
        "removing an old checkpoint": (shutil, "rmtree"),
        "replacing a file": (Path, "replace"),
        "half a line": (JsonLines, "append"),
    }
    owner, name = places[moment]
    original = getattr(owner, name)
    left = n

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            if moment == "half a line":
                file, rows = args
                half = json.dumps(next(iter(rows)))[:50]
                with file.path.open("a") as opened:
                    opened.write(half)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def carry_out(words: list[str], log: str, die: list[Any] | None) -> int:
    """Run one command line in this (forked) process."""
    import expo_lite.commands.cli

    os.setpgrp()  # so that a signal to the group, as a terminal sends it, reaches the run and what it has started
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Path(log).open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        if die:
            kill_at(*die)
        return expo_lite.commands.cli.run(words)


def serve() -> None:
    """Fork a run for each line of input."""
    import torch

    from expo_lite.settings.machine import importing

    with importing("peft"):
        import expo_lite.loop
        import expo_lite.policy.hf  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = carry_out(**json.loads(line))
            finally:
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the runs
    serve()
