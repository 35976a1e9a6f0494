"""`expo-lite replicate`: a fixed plan of runs, and what becomes of the paper's claims.

Each run is an ordinary run folder made by the ordinary loop, in a child process; several go on side by side. What is
finished is not done again: a run whose last evaluation is there, a diagnosis, and the evaluation of the base, which is
put into each run's folder before the run starts, where the loop finds it.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from expo_lite.errors import ConfigError, ExpoLiteError
from expo_lite.grading import Grader
from expo_lite.loop import train
from expo_lite.measure.diagnose import RESULTS, diagnose_target
from expo_lite.measure.figures import Evaluation
from expo_lite.measure.held_out import evaluate_held_out, held_out
from expo_lite.memory.limits import fitted
from expo_lite.memory.plan import MOST_SAMPLING_ROWS
from expo_lite.policy.device import describe, find_device
from expo_lite.policy.factory import load_policy
from expo_lite.replication.claims import Results, RunResult, judge_claims
from expo_lite.replication.plan import ReplicationPlan
from expo_lite.replication.report import claim_table, write_report
from expo_lite.run.files import write_atomically
from expo_lite.run.folder import RunFolder, check_new, read_config
from expo_lite.run.target import find_target
from expo_lite.settings.machine import has_gpu
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.replicate import ReplicateConfig
from expo_lite.settings.train import RunConfig, TrainConfig
from expo_lite.tasks import load_task

BASE = "base-evaluation.json"


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do in a child process; it is done when its file is there."""

    name: str
    done: Path
    log: Path
    work: Callable[[], None]

    def carry_out(self) -> str | None:
        """Do it, with what it prints in its log; returns what went wrong, where that could be foreseen."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            try:
                self.work()
            except ExpoLiteError as error:
                return " ".join(str(error).split())
        return None if self.done.exists() else "stopped before its end"


def run_replicate(plan: ReplicationPlan, config: ReplicateConfig, console: Console) -> None:
    """Carry out what is left of the plan, judge the claims, print and write them.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong; finished runs are kept, and --resume goes on.
    """
    if not config.resume:
        check_new(plan.folder)
    n_jobs = config.jobs or (1 if has_gpu() else os.cpu_count() or 1)
    console.print(f"device: {_device(n_jobs)}, {n_jobs} at a time", markup=False, soft_wrap=True)
    failures = carry_out([base_job(plan)], n_jobs, console)
    if not failures:
        prepare_runs(plan, n_jobs)
        failures = carry_out([*diagnosis_jobs(plan), *run_jobs(plan)], n_jobs, console)
    for name, failure in failures.items():
        console.print(f"{name}: {failure}", markup=False, soft_wrap=True)
    if not (plan.folder / BASE).exists():
        raise ExpoLiteError("Without the base's evaluation there is nothing to compare with; see above.")
    results = collect_results(plan)
    judgements = judge_claims(results)
    console.print(claim_table(judgements))
    for file in write_report(plan, results, judgements, failures):
        console.print(f"written to: {file}", markup=False, soft_wrap=True)
    if failures:
        raise ExpoLiteError(f"{len(failures)} of the plan's parts failed, see above; --resume tries them again.")


def base_job(plan: ReplicationPlan) -> Job:
    """The evaluation of the base."""
    file = plan.folder / BASE
    return Job("base evaluation", file, _log(plan, "base"), partial(evaluate_base, plan.any_config, file))


def diagnosis_jobs(plan: ReplicationPlan) -> list[Job]:
    """A diagnosis of the base for each seed."""
    shared = plan.any_config
    jobs = []
    for seed in plan.seeds:
        folder = plan.folder / f"diagnosis-seed{seed}"
        settings = DiagnoseConfig(
            model=shared.model,
            task=shared.task,
            problems=plan.diagnose_problems,
            group_size=shared.group_size,
            max_completion_tokens=shared.sampling.max_completion_tokens,
            bits=shared.policy.bits,
            sampling_rows=shared.sampling.sampling_rows or MOST_SAMPLING_ROWS,
            seed=seed,
            data=shared.data,
        )
        jobs.append(
            Job(folder.name, folder / RESULTS, _log(plan, folder.name), partial(diagnose_anew, settings, folder))
        )
    return jobs


def run_jobs(plan: ReplicationPlan) -> list[Job]:
    """Every run of every seed, all runs of a seed before the next seed's."""
    configs = [plan.config(name, seed) for seed in plan.seeds for name in plan.runs]
    return [
        Job(
            c.output.name,
            RunFolder(c.output).evaluation_file(c.steps),
            _log(plan, c.output.name),
            partial(train_printing, c),
        )
        for c in configs
    ]


def _log(plan: ReplicationPlan, name: str) -> Path:
    return plan.folder / "logs" / f"{name}.txt"


def evaluate_base(config: RunConfig, file: Path) -> None:
    """Evaluate as the loop does before its first step."""
    with Grader() as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        policy = load_policy(config.model, config.policy, seed=config.seed)
        result = evaluate_held_out(policy, task, held_out(task, config), config)
    write_atomically(file, json.dumps(result.to_json(), indent=2) + "\n")


def train_printing(config: TrainConfig) -> None:
    """Train, and print what goes on to where this process's output goes now."""
    train(config, console=Console())


def diagnose_anew(config: DiagnoseConfig, folder: Path) -> None:
    """Diagnose, whatever an attempt that was broken off has left."""
    shutil.rmtree(folder, ignore_errors=True)
    target = find_target(str(config.model), bits=config.bits)
    with Grader() as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        problems = task.problems(config.split, limit=config.problems, seed=0)
        diagnose_target(target, task, problems, config, folder)


def prepare_runs(plan: ReplicationPlan, n_jobs: int) -> None:
    """Make each run's folder, with the base's evaluation in it.

    Raises:
        ConfigError: a run that is there has other settings than the plan.
    """
    base = (plan.folder / BASE).read_text(encoding="utf-8")
    device = _device(n_jobs)
    for seed in plan.seeds:
        for name in plan.runs:
            folder = RunFolder(plan.config(name, seed).output)
            there = read_config(folder.path) if folder.config_file.exists() else None
            config, _ = fitted(plan.config(name, seed), there)  # as the loop will ask for it
            if there is None:
                shutil.rmtree(folder.path, ignore_errors=True)  # broken off while it was made
                folder.create(config, device=device)
            elif replace(there, output=config.output, resume=True) != config:
                raise ConfigError(
                    f"The run in '{folder.path}' has other settings than the plan. Choose another --output."
                )
            if not folder.evaluation_file(0).exists():
                write_atomically(folder.evaluation_file(0), base)


def carry_out(jobs: Iterable[Job], n_jobs: int, console: Console) -> dict[str, str]:
    """Do what is not done yet, `n_jobs` at a time; returns what failed, by name.

    Raises:
        ExpoLiteError: a child process was killed.
    """
    missing = [job for job in jobs if not job.done.exists()]
    failures: dict[str, str] = {}
    if not missing:
        return failures
    context, started = multiprocessing.get_context("spawn"), time.monotonic()
    with ProcessPoolExecutor(n_jobs, context, _initialise, (_threads(n_jobs),)) as pool:
        futures = {pool.submit(job.carry_out): job for job in missing}
        try:
            for n_done, future in enumerate(as_completed(futures), 1):
                job = futures[future]
                failure = future.result()
                if failure is not None:
                    failures[job.name] = failure
                outcome = "done" if failure is None else "failed"
                so_far = f"{n_done}/{len(missing)}, {(time.monotonic() - started) / 60:.1f} min"
                console.print(f"{job.name}: {outcome} ({so_far})", markup=False, soft_wrap=True)
        except BrokenProcessPool as error:
            raise ExpoLiteError(
                "A run's process was killed, perhaps because memory ran out: try fewer --jobs. --resume goes on."
            ) from error
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # those that train finish their step and save
            raise
    return failures


def _device(n_jobs: int) -> str:
    device = find_device()
    return describe(device) if device.type == "cuda" else f"cpu: {_threads(n_jobs)} threads"


def _threads(n_jobs: int) -> int:
    return max((os.cpu_count() or 1) // n_jobs, 1)


def _initialise(threads: int) -> None:
    torch.set_num_threads(threads)


def collect_results(plan: ReplicationPlan) -> Results:
    """What is there of the plan's results."""
    runs: dict[str, dict[int, RunResult]] = {name: {} for name in plan.runs}
    diagnoses: dict[int, dict[str, Any]] = {}
    for seed in plan.seeds:
        for name in plan.runs:
            config = plan.config(name, seed)
            folder = RunFolder(config.output)
            file = folder.evaluation_file(config.steps)
            if file.exists():
                runs[name][seed] = RunResult(_evaluation(file), folder.metrics.read())
        file = plan.folder / f"diagnosis-seed{seed}" / RESULTS
        if file.exists():
            diagnoses[seed] = json.loads(file.read_text(encoding="utf-8"))["levels"][-1]
    return Results(_evaluation(plan.folder / BASE), runs, diagnoses, plan.seeds)


def _evaluation(file: Path) -> Evaluation:
    return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8")))
