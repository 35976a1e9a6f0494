"""Carry out a plan of runs: each an ordinary run folder, made by the ordinary loop in a process of its own.

Finished work is not done again: a run whose last evaluation is there, a diagnosis, and the evaluation before training,
which is put into each run's folder as the run starts, where the loop finds it. The jobs run on this machine, one
process a GPU where there are GPUs, or on a Ray cluster. The caller gives the `Work`, so that this room needs no torch.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from traceback import extract_tb
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from expo_lite.errors import ConfigError, ExpoLiteError
from expo_lite.results.record import read_evaluation
from expo_lite.run.dashboard import clock, read_progress, runs_panel
from expo_lite.run.folder import RunFolder, check_new, locked, make_folder, read_config, read_json
from expo_lite.settings.machine import gpu_names, how_to_install, is_installed
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.plans import RunsConfig
from expo_lite.settings.schema import flat, to_json
from expo_lite.settings.train import RunConfig
from expo_lite.sweep.plan import FIXED, SweepPlan, keep_plan
from expo_lite.sweep.results import Results, RunResult
from expo_lite.terminal import say

DIAGNOSIS = "diagnosis.json"
CLAIMED_K = 4
"""The claims are about pass@4; a plan with fewer samples judges pass@1."""
FITTED = ("policy.sampler", "optimizer.micro_batch_tokens", "sampling.sampling_rows")
"""Settings that a run fills in by the memory that it finds."""
MOST_RESTARTS = 3
"""The number of times Ray starts a job again whose process or machine was lost."""
TICK_S = 1.0
LINE_SECONDS = 60.0
"""Without a terminal, a line in so much time while no job ends."""
_AT_WORK = threading.Lock()
"""Held while this process does a job."""


@dataclass(frozen=True, slots=True)
class Work:
    """The parts of a sweep that need torch. They run in processes of their own, and what they print goes into a log."""

    start: Callable[[int], None]
    """Make a process ready, with this many threads."""
    evaluate: Callable[[RunConfig, Path], None]
    """Evaluate the model before training, into a file."""
    diagnose: Callable[[DiagnoseConfig], None]
    """Diagnose that model, into the settings' output folder."""
    train: Callable[[RunConfig, Path], None]
    """Train, or go on, from the evaluation in a file."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work for one process: done when its file is there, and able to go on where it was cut off."""

    name: str
    done: Path
    log: Path
    work: Callable[[], None]

    def carry_out(self) -> str | None:
        """Do it, and print into its log; returns what went wrong, so that other jobs go on."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with _AT_WORK, self.log.open("a", encoding="utf-8") as file, redirect_stdout(file):
                self.work()
        except ExpoLiteError as error:
            return " ".join(str(error).split())
        except Exception as error:  # noqa: BLE001
            return " ".join(f"{type(error).__name__}: {error} {extract_tb(error.__traceback__)[-1]}".split())
        return None if self.done.exists() else "stopped before its end"


Workers = Callable[[Sequence[Job]], Iterator[tuple[Job, str | None] | None]]
"""Carries jobs out; gives each with what went wrong, as it ends, and None about once a second in between."""


def run_sweep(plan: SweepPlan, config: RunsConfig, work: Work, console: Console) -> tuple[Results, dict[str, str]]:
    """Carry out what is left of the plan.

    Returns:
        The results, and why each part failed that did, by name.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong; finished runs are kept, and --resume goes on.
    """
    if not config.resume:
        check_new(plan.folder)
    check_runs(plan)
    make_folder(plan.folder)
    workers = partial(on_ray, config.ray) if config.ray else partial(on_processes, config.jobs, work.start)
    base, *others = jobs_of(plan, work)
    runs = [(config.output, config.steps) for config in plan.configs()]
    with locked(plan.folder):
        keep_plan(plan)
        failures = carry_out([base], runs, workers, console) or carry_out(others, runs, workers, console)
    return collect_results(plan), failures


def check_runs(plan: SweepPlan) -> None:
    """Hold the runs that are there against the plan; raises ConfigError if one has other settings."""
    for wanted in plan.configs():
        folder = RunFolder(wanted.output)
        if folder.config_file.exists():
            there = dict(flat(to_json(read_config(folder.path))))
            for key, value in flat(to_json(wanted)):
                pinned = (key, value) == ("policy.revision", None)  # by the run itself
                if value != there[key] and key not in (*FIXED, *FITTED) and not pinned:
                    raise ConfigError(
                        f"The run in '{folder.path}' has other settings than the plan ({key}). Choose another --output."
                    )


def jobs_of(plan: SweepPlan, work: Work) -> list[Job]:
    """The evaluation before training; then the diagnoses; then every run of every seed, seed by seed."""

    def job(name: str, done: Path, work: Callable[[], None]) -> Job:
        return Job(name, done, plan.folder / "logs" / f"{name}.txt", work)

    shared = plan.any_config
    policy = {f.name: getattr(shared.policy, f.name) for f in fields(DiagnoseConfig) if hasattr(shared.policy, f.name)}
    jobs = [job(plan.base_file.stem, plan.base_file, partial(work.evaluate, shared, plan.base_file))]
    for seed in plan.seeds if plan.diagnose_problems else ():
        folder = diagnosis_folder(plan, seed)
        settings = DiagnoseConfig(
            model=str(shared.start_from or shared.model),
            task=shared.task,
            problems=plan.diagnose_problems,
            group_size=shared.group_size,
            temperature=shared.sampling.temperature,
            max_completion_tokens=shared.sampling.max_completion_tokens,
            seed=seed,
            question_prompt=shared.question_prompt,
            explanation_prompt=shared.explanation.explanation_prompt,
            data=shared.data,
            output=folder,
            **policy,
        )
        jobs.append(job(folder.name, folder / DIAGNOSIS, partial(work.diagnose, settings)))
    for config in plan.configs():
        done = RunFolder(config.output).evaluation_file(config.steps)
        jobs.append(job(config.output.name, done, partial(work.train, config, plan.base_file)))
    return jobs


def diagnosis_folder(plan: SweepPlan, seed: int) -> Path:
    """The folder of the diagnosis with a seed."""
    return plan.folder / f"diagnosis-seed{seed}"


def carry_out(
    jobs: Sequence[Job], runs: Sequence[tuple[Path, int]], workers: Workers, console: Console
) -> dict[str, str]:
    """Do the jobs that are not done yet, and show how far they and the runs are; returns the failures by name.

    Raises:
        ExpoLiteError: a process was killed, and nobody starts it again.
    """
    missing = [job for job in jobs if not job.done.exists()]
    failures: dict[str, str] = {}
    started = last_line = time.monotonic()
    names = {path.name for path, _ in runs}

    def view() -> Group:
        others = [job.name for job in missing if job.name not in names and not job.done.exists()]
        clocked = Text(" ".join([clock(time.monotonic() - started), *others[:1]]), style="dim")
        return Group(clocked, runs_panel(read_progress(runs)))

    live = Live(get_renderable=view, console=console, refresh_per_second=1, transient=True)
    with live if console.is_terminal else nullcontext():
        for ended in workers(missing) if missing else ():
            if ended is not None:
                job, failure = ended
                if failure is not None:
                    failures[job.name] = failure
                # the time left is told again when the next job runs
                say(console, f"{job.name}: {failure or 'done'} ({read_progress(runs).counted})")
            elif not console.is_terminal and time.monotonic() - last_line >= LINE_SECONDS:
                last_line = time.monotonic()
                say(console, str(read_progress(runs)))
    return failures


def collect_results(plan: SweepPlan) -> Results:
    """Read what is there of the plan's results; raises ExpoLiteError if no run is finished."""
    runs: dict[str, dict[int, RunResult]] = {}
    diagnoses: dict[int, dict[str, Any]] = {}
    for seed in plan.seeds:
        for name in plan.runs:
            config = plan.config(name, seed)
            folder = RunFolder(config.output)
            if (after := folder.evaluation_file(config.steps)).exists():
                before = read_evaluation(folder.evaluation_file(0))
                runs.setdefault(name, {})[seed] = RunResult(before, read_evaluation(after), folder.metrics.read())
        file = diagnosis_folder(plan, seed) / DIAGNOSIS
        if file.exists():
            diagnoses[seed] = read_json(file)["levels"][-1]
    if not runs:
        raise ExpoLiteError("No run is finished, so there is nothing to compare.")
    samples = plan.any_config.evaluation.eval_samples
    return Results(runs, diagnoses, samples if not plan.diagnose_problems else CLAIMED_K if samples >= CLAIMED_K else 1)


def unfinished(plan: SweepPlan) -> dict[str, str]:
    """Name the runs that are not finished, as if they had failed."""
    done = {each.output.name: RunFolder(each.output).evaluation_file(each.steps).exists() for each in plan.configs()}
    return {name: "not finished" for name, is_done in done.items() if not is_done}


def on_processes(
    n: int | None, start: Callable[[int], None], jobs: Sequence[Job]
) -> Iterator[tuple[Job, str | None] | None]:
    """Run on `n` processes side by side that share the cores, and have a GPU each where there are several."""
    names = gpu_names()
    n_processes = min(n or len(names) or os.cpu_count() or 1, len(jobs))
    threads = max((os.cpu_count() or 1) // n_processes, 1)
    # One process imports, and the others are its copies; not with a GPU, which a copied process may be unable to use
    context = multiprocessing.get_context("spawn" if names else "forkserver")
    context.set_forkserver_preload(["expo_lite.loop", "expo_lite.policy.hf"])
    gpus: Queue[str | None] = context.Queue()
    for i in range(n_processes):
        gpus.put(names[i % len(names)] if names else None)
    with ProcessPoolExecutor(n_processes, context, _start, (start, threads, gpus)) as pool:
        futures = {pool.submit(job.carry_out): job for job in jobs}
        try:
            while futures:
                ended, _ = wait(futures, timeout=TICK_S, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield futures.pop(future), future.result()
                yield None
        except BrokenProcessPool as error:
            raise ExpoLiteError(
                "A run's process was killed, perhaps because memory ran out: try fewer --jobs. --resume goes on."
            ) from error
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # those that train finish their step and save
            raise


def _start(start: Callable[[int], None], threads: int, gpus: "Queue[str | None]") -> None:
    if gpu := gpus.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA starts, which it has not yet
    start(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Stop as after any SIGTERM when the process that hands out the jobs was killed: what is trained is saved."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 (this runs in the children of a pool)
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    with _AT_WORK:
        os._exit(1)  # or it would wait for a next job for ever


def on_ray(address: str, jobs: Sequence[Job]) -> Iterator[tuple[Job, str | None] | None]:
    """Run on a Ray cluster: `local` starts one here, `auto` finds the one that this machine belongs to.

    A job takes one GPU where the cluster has any, else one core. Ray places jobs, and starts one again whose process or
    machine was lost; it then goes on from its checkpoint. expo-lite is installed on all machines.

    Raises:
        ConfigError: Ray is not installed, or does not answer at this address.
    """
    # Under `uv run` Ray would build the project's environment anew for each worker: every machine has its own
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if not is_installed("ray"):
        raise ConfigError(f"--ray needs the package 'ray': {how_to_install('ray')}.")
    import ray

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
            ended, _ = ray.wait(list(waiting), timeout=TICK_S)
            for each in ended:
                job = waiting.pop(each)
                try:
                    yield job, ray.get(each)
                except ray.exceptions.RayError as error:
                    yield job, f"lost more than {MOST_RESTARTS} times: {str(error).splitlines()[0]}"
            yield None
    finally:
        ray.shutdown()  # which stops what still runs
