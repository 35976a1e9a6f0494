"""A process that answers questions and may be killed: limited in CPU time, replaced as soon as it dies.

Grading uses it, and so do the scorers of generated puzzles. Questions and replies are JSON, over a socket. The kernel
ends a process that uses more CPU time on a question than its limit; one that hangs, or gets no CPU time, is killed
after 1.8 times the limit by the clock. Its successor starts at once in the background.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

_START_LIMIT_S = 120.0
_CLOCK_PER_CPU = 1.8  # seconds by the clock for each second of the limit
_MAX_DEATHS = 6  # under one question, by a crash or by someone's kill, before it counts as the question's fault
_SOCKET = "EXPO_LITE_WORKER_SOCKET"
_ROOT = Path(__file__).parents[2]

Reply = dict[str, Any]


class Worker:
    """One process, started when first asked and again after every death; safe to share between threads."""

    def __init__(self, *arguments: str, limit_s: float, environment: Mapping[str, str] | None = None) -> None:
        """Take Python's arguments (a file, or -m and a module that calls `serve`) and the CPU seconds a question."""
        self._command = [sys.executable, "-P", *arguments]  # -P: no library from the working directory
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The id of the running process, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def is_ready(self) -> bool:
        """True if the process has started and waits for a question."""
        return self._connection is not None and self._connection.poll()

    def start(self) -> None:
        """Start the process, unless it runs, without waiting for it."""
        with self._lock:
            self._start()

    def ask(self, question: Reply, *, limit_s: float | None = None) -> Reply:
        """Answer a question; an error is {"error": "timeout", "worker_died", "not_started" or the process's own}.

        A process that dies under a question is replaced and asked again. One that is too slow, or that reports an
        error of its own, is replaced for the next question.
        """
        limit_s = self._limit_s if limit_s is None else limit_s
        message = json.dumps([limit_s, question]).encode()
        with self._lock:
            for _ in range(_MAX_DEATHS):
                reply = self._try(message, limit_s)
                if reply is not None:
                    return reply
        return {"error": "worker_died"}

    def _try(self, message: bytes, limit_s: float) -> Reply | None:
        """Ask once; None if the process died of something other than its limit."""
        connection, is_ready = self._start(), False
        try:
            _receive(connection, _START_LIMIT_S)
            is_ready = True
            connection.send_bytes(message)
            reply = _receive(connection, _CLOCK_PER_CPU * limit_s)
        except TimeoutError:
            self._replace()
            return {"error": "timeout"}
        except (EOFError, OSError):
            status = self._replace(wait_s=2.0)
            if status == -signal.SIGPROF:
                return {"error": "timeout"}
            return {"error": "not_started"} if status > 0 and not is_ready else None
        if "error" in reply:
            self._replace()
        return reply

    def _start(self) -> Connection:
        if self._connection is None:
            self._connection, theirs = Pipe()
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **self._environment, _SOCKET: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
        return self._connection

    def _replace(self, *, wait_s: float = 0.0) -> int:
        """End the process, start the next one, and return the exit status of the first."""
        status = self._end(wait_s)
        self._start()
        return status

    def _end(self, wait_s: float = 0.0) -> int:
        """Kill the process unless it exits by itself in time."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is None or connection is None:
            return 0
        connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(wait_s)
        process.kill()
        return process.wait()

    def close(self) -> None:
        """Kill the process once it is not busy. A worker that is asked again starts a new one."""
        with self._lock:
            self._end()


def _receive(connection: Connection, limit_s: float) -> Reply:
    if not connection.poll(limit_s):
        raise TimeoutError
    message: Reply = json.loads(connection.recv_bytes())
    return message


def serve(reply: Callable[[Reply], Reply], *, memory_mib: int) -> None:
    """Answer questions in a process that a Worker started, until the Worker is gone.

    The address space is capped; running out of it is the error "out_of_memory". The CPU limit has no handler: Python
    could not run one inside a long multiplication, so the kernel ends the process.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    connection = Connection(int(os.environ.pop(_SOCKET)))
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send_bytes(b'{"ready": true}')
            limit_s, question = json.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            try:
                answer = reply(question)
            except MemoryError:
                answer = {"error": "out_of_memory"}
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(json.dumps(answer).encode())
