"""The grader's side of the workers: start, ask with a time limit, kill, replace."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from expo_lite.grading.frames import encode, read_message

_START_LIMIT_S = 120.0
_MAX_CRASHES, _MAX_KILLS = 2, 20
_ROOT = Path(__file__).parents[2]


class Worker:
    """One worker process, started when first asked and again after every death."""

    def __init__(self, *, limit_s: float, memory_mib: int) -> None:
        """Remember the limits; starts nothing."""
        self._limit_s = limit_s
        self._memory_mib = memory_mib
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process, if there is one."""
        return None if self._process is None else self._process.pid

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The reply to one question: {"equal", "how"}, or {"error": "timeout" | "worker_died" | "out_of_memory"}.

        Loading the process is not part of the time limit. A process that somebody killed under the question is replaced
        and asked again, one that fell over it by itself once more; one that is too slow is killed.
        """
        crashes = kills = 0
        while crashes < _MAX_CRASHES and kills < _MAX_KILLS:
            try:
                inbox, outbox = self._started()
                os.write(inbox, encode(question))
                reply = read_message(outbox, deadline=time.monotonic() + self._limit_s)
            except TimeoutError:
                self.kill()
                return {"error": "timeout"}
            except (EOFError, OSError):
                killed = self._was_killed()
                kills, crashes = kills + killed, crashes + (not killed)
                self.kill()
                continue
            if "error" in reply:
                self.kill()
            return reply
        return {"error": "worker_died"}

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
            # -P: a file in the working directory must not stand in for a library.
            command = [
                sys.executable,
                "-P",
                "-m",
                "expo_lite.grading.worker",
                str(self._memory_mib),
                str(self._limit_s),
            ]
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                read_message(self._fd(self._process.stdout), deadline=time.monotonic() + _START_LIMIT_S)
            except TimeoutError:
                raise EOFError from None
        return self._fd(self._process.stdin), self._fd(self._process.stdout)

    @staticmethod
    def _fd(pipe: Any) -> int:
        return int(pipe.fileno())

    def kill(self) -> None:
        """End the process at once, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class WorkerPool:
    """A fixed number of workers, each lent to one thread at a time; the last one returned is the next one lent."""

    def __init__(self, *, n_workers: int, limit_s: float, memory_mib: int) -> None:
        """Remember the limits; starts nothing."""
        self.workers = [Worker(limit_s=limit_s, memory_mib=memory_mib) for _ in range(n_workers)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in self.workers:
            self._free.put(worker)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask the next free worker."""
        worker = self._free.get()
        try:
            return worker.ask(question)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Kill every worker once it is free."""
        lent = [self._free.get() for _ in self.workers]
        for worker in lent:
            worker.kill()
            self._free.put(worker)
