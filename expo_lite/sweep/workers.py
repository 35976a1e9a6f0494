"""Who does a sweep's jobs: processes on this machine, one a GPU where there are GPUs, or a Ray cluster."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from expo_lite.errors import ConfigError, ExpoLiteError
from expo_lite.settings.machine import how_to_install, is_installed

MOST_RESTARTS = 3
"""How often Ray starts a job again whose process or machine was lost."""


_AT_WORK = threading.Lock()
"""Held while this process does a job."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do in a process of its own: done when its file is there, and able to go on where it was cut off."""

    name: str
    done: Path
    log: Path
    work: Callable[[], None]

    def carry_out(self) -> str | None:
        """Do it, with what it prints in its log; returns what went wrong, where that could be foreseen."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with _AT_WORK, self.log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            try:
                self.work()
            except ExpoLiteError as error:
                return " ".join(str(error).split())
        return None if self.done.exists() else "stopped before its end"


Workers = Callable[[Sequence[Job]], Iterator[tuple[Job, str | None]]]
"""Carries jobs out; gives each with what went wrong, as it ends."""


def processes(n: int | None) -> Workers:
    """`n` processes side by side that share the cores, and have a GPU each where there are several."""
    names = gpu_names()
    n_processes = n or len(names) or os.cpu_count() or 1
    threads = max((os.cpu_count() or 1) // n_processes, 1)

    def carry_out(jobs: Sequence[Job]) -> Iterator[tuple[Job, str | None]]:
        # One process imports, and the others are its copies. Not with a GPU: importing may ask CUDA for its cards, and
        # a copy of a process that has cannot use them. Nor unsloth, before which transformers must not be imported.
        context = multiprocessing.get_context("spawn" if names else "forkserver")
        context.set_forkserver_preload(
            ["expo_lite.loop", *([] if is_installed("unsloth") else ["expo_lite.policy.hf"])]
        )
        gpus: Queue[str] = context.Queue()
        for i in range(n_processes if names else 0):
            gpus.put(names[i % len(names)])
        with ProcessPoolExecutor(n_processes, context, _initialise, (threads, gpus, bool(names))) as pool:
            futures = {pool.submit(job.carry_out): job for job in jobs}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise ExpoLiteError(
                    "A run's process was killed, perhaps because memory ran out: try fewer --jobs. --resume goes on."
                ) from error
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)  # those that train finish their step and save
                raise

    return carry_out


def gpu_names() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them: its own entries where it is set, else numbers.

    Of MIG instances CUDA gives a process the first alone, however many are named: there the entries count.
    """
    n_gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not n_gpus:
        return [str(i) for i in range(n_gpus)]
    names = [entry for each in visible.split(",") if (entry := each.strip())]
    return names if names[0].startswith("MIG") else names[:n_gpus]  # CUDA stops at the first that is no GPU


def _initialise(threads: int, gpus: "Queue[str]", has_gpus: bool) -> None:
    if has_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()  # read when CUDA starts, which it has not yet
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Where the process that hands out the jobs was killed, stop as after any SIGTERM: what is trained is saved."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 (this runs in the children of a pool)
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    with _AT_WORK:
        os._exit(1)  # or it would wait for a next job for ever


def ray_cluster(address: str) -> Workers:
    """A Ray cluster: `local` starts one here, `auto` finds the one that this machine belongs to.

    A job takes one GPU where the cluster has any, else one core. Ray places jobs, and starts one again whose process or
    machine was lost; it then goes on from its checkpoint. expo-lite is installed on all machines.

    Raises:
        ConfigError: Ray is not installed, or does not answer at this address.
    """
    # Under `uv run` Ray would build the project's environment anew for each worker: every machine has its own
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--ray needs the package 'ray': {how_to_install('ray')}.") from error

    def carry_out(jobs: Sequence[Job]) -> Iterator[tuple[Job, str | None]]:
        try:
            ray.init(None if address == "local" else address, ignore_reinit_error=True, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"No Ray cluster answers at '{address}': {error}") from error
        on_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        remote = ray.remote(Job.carry_out).options(
            num_gpus=1 if on_gpu else 0, num_cpus=1, max_retries=MOST_RESTARTS, retry_exceptions=False
        )
        waiting = {remote.remote(job): job for job in jobs}
        try:
            while waiting:
                (ended, *_), _ = ray.wait(list(waiting))
                job = waiting.pop(ended)
                try:
                    yield job, ray.get(ended)
                except ray.exceptions.RayError as error:
                    yield job, f"lost more than {MOST_RESTARTS} times: {str(error).splitlines()[0]}"
        finally:
            for reference in waiting:
                ray.cancel(reference)
            ray.shutdown()

    return carry_out
