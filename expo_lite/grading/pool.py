"""A process that can be killed: start it, ask with a time limit, kill, replace.

Used for grading and for the scorers of generated puzzles. The process is a module of this package that speaks in
frames: {"ready": true} once it has started, then one reply a question, in order. Before a reply it may say {"loading":
true} and later {"ready": true}; what it loads in between is not part of the time limit.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo_lite.grading.frames import encode, read_message

_START_LIMIT_S = 120.0
_MAX_CRASHES, _MAX_KILLS = 2, 20
_WINDOW_BYTES, _WINDOW = 48_000, 64  # less than a pipe holds, so that writing never waits for a process that hangs
_ROOT = Path(__file__).parents[2]

Reply = dict[str, Any]


class Worker:
    """One process, started when first asked and again after every death."""

    def __init__(
        self, module: str, *arguments: str, limit_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        """Remember what to run and the limit on one question; starts nothing."""
        self._command = [sys.executable, "-P", "-m", module, *arguments]  # -P: no library from the working directory
        self._environment = environment or {}
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process, if there is one."""
        return None if self._process is None else self._process.pid

    def ask_all(self, questions: Sequence[Reply], *, limit_s: float | None = None) -> list[Reply]:
        """The replies in order; an error is {"error": "timeout", "worker_died", "not_started" or the process's own}.

        A process that somebody killed under a question is replaced and asked again, one that fell over it by itself
        once more; one that is too slow is killed, and so is one that reports an error.
        """
        limit_s = self._limit_s if limit_s is None else limit_s
        frames = [encode(question) for question in questions]
        replies: list[Reply] = []
        crashes = kills = 0
        while len(replies) < len(frames):
            n_before = len(replies)
            try:
                self._exchange(frames, replies, limit_s)
            except TimeoutError:
                self.kill()
                replies.append({"error": "timeout"})
            except (EOFError, OSError):
                started = self._process is not None
                killed = self._was_killed()
                self.kill()
                if len(replies) > n_before:
                    crashes = kills = 0
                kills, crashes = kills + killed, crashes + (not killed)
                if crashes < _MAX_CRASHES and kills < _MAX_KILLS:
                    continue
                replies.append({"error": "worker_died" if started else "not_started"})
            crashes = kills = 0
        return replies

    def _exchange(self, frames: Sequence[bytes], replies: list[Reply], limit_s: float) -> None:
        """Ask what has no reply yet, as much at a time as a pipe holds, until all is answered or an error comes."""
        inbox, outbox = self._started()
        while len(replies) < len(frames):
            window = _window(frames, len(replies))
            os.write(inbox, b"".join(window))
            for _ in window:
                reply = self._receive(outbox, limit_s)
                replies.append(reply)
                if "error" in reply:
                    self.kill()
                    return

    @staticmethod
    def _receive(outbox: int, limit_s: float) -> Reply:
        reply = read_message(outbox, deadline=time.monotonic() + limit_s)
        if "loading" in reply:
            read_message(outbox, deadline=time.monotonic() + _START_LIMIT_S)
            reply = read_message(outbox, deadline=time.monotonic() + limit_s)
        return reply

    def _was_killed(self) -> bool:
        """Whether the process that hung up did so because of a SIGKILL from elsewhere."""
        if self._process is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)
        return self._process.returncode == -signal.SIGKILL

    def _started(self) -> tuple[int, int]:
        """The pipes to a process that has said it is ready."""
        if self._process is None:
            path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **self._environment},
                start_new_session=True,
            )
            try:
                read_message(self._fd(process.stdout), deadline=time.monotonic() + _START_LIMIT_S)
            except (TimeoutError, EOFError, OSError):
                _end(process)
                raise EOFError from None
            self._process = process
        return self._fd(self._process.stdin), self._fd(self._process.stdout)

    @staticmethod
    def _fd(pipe: Any) -> int:
        return int(pipe.fileno())

    def kill(self) -> None:
        """End the process at once, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def _window(frames: Sequence[bytes], start: int) -> list[bytes]:
    """The next frames that a pipe holds all at once, at least one."""
    chosen: list[bytes] = []
    n_bytes = 0
    for frame in frames[start : start + _WINDOW]:
        n_bytes += len(frame)
        if chosen and n_bytes > _WINDOW_BYTES:
            break
        chosen.append(frame)
    return chosen


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class WorkerPool:
    """A fixed number of workers, each lent to one thread at a time; the last one returned is the next one lent."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Starts nothing."""
        self.workers = list(workers)
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in self.workers:
            self._free.put(worker)

    def ask(self, question: Reply, *, limit_s: float | None = None) -> Reply:
        """Ask the next free worker."""
        return self.ask_all([question], limit_s=limit_s)[0]

    def ask_all(self, questions: Sequence[Reply], *, limit_s: float | None = None) -> list[Reply]:
        """Ask the next free worker several questions, one after the other."""
        worker = self._free.get()
        try:
            return worker.ask_all(questions, limit_s=limit_s)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Kill every worker once it is free."""
        lent = [self._free.get() for _ in self.workers]
        for worker in lent:
            worker.kill()
            self._free.put(worker)


def grading_pool(*, n_workers: int, limit_s: float, memory_mib: int) -> WorkerPool:
    """Workers that compare answers, each capped at so much address space."""
    arguments = ("expo_lite.grading.worker", str(memory_mib), str(limit_s))
    return WorkerPool([Worker(*arguments, limit_s=limit_s) for _ in range(n_workers)])
