"""A plan of runs carried out: each an ordinary run folder, made by the ordinary loop in a process of its own.

What is finished is not done again: a run whose last evaluation is there, a diagnosis, and the evaluation of the
untrained model, which is put into each run's folder as the run starts, where the loop finds it.
"""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from expo_lite.errors import ConfigError, ExpoLiteError
from expo_lite.grading import Grader
from expo_lite.loop import train
from expo_lite.measure.diagnose import RESULTS, diagnose_target
from expo_lite.measure.held_out import evaluate_held_out, held_out
from expo_lite.memory.limits import fitted
from expo_lite.memory.plan import MOST_SAMPLING_ROWS
from expo_lite.policy.device import describe, find_device
from expo_lite.policy.factory import load_policy
from expo_lite.prompts import read_prompts
from expo_lite.results.figures import Evaluation
from expo_lite.run.folder import RunFolder, check_new, read_config, write_atomically
from expo_lite.run.target import find_target, starting_adapter
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.sweep import RunsConfig
from expo_lite.settings.train import RunConfig
from expo_lite.sweep.claims import K
from expo_lite.sweep.plan import SweepPlan
from expo_lite.sweep.results import Results, RunResult
from expo_lite.sweep.workers import Job, Workers, processes, ray_cluster
from expo_lite.tasks import load_task, problems_of
from expo_lite.terminal import Terminal, say


def run_sweep(plan: SweepPlan, config: RunsConfig, console: Console) -> tuple[Results, dict[str, str]]:
    """Carry out what is left of the plan.

    Returns:
        What was measured, and why each part failed that did, by name.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong; finished runs are kept, and --resume goes on.
    """
    if not config.resume:
        check_new(plan.folder)
    check_runs(plan)
    say(console, f"device: {describe(find_device())}")
    workers = ray_cluster(config.ray) if config.ray else processes(config.jobs)
    carry = partial(carry_out, console=console, workers=workers)
    failures = carry(base_jobs(plan))
    if not failures:
        failures = carry([*diagnosis_jobs(plan), *run_jobs(plan)])
    for name, failure in failures.items():
        say(console, f"{name}: {failure}")
    results = collect_results(plan)
    if not any(results.runs.values()):
        raise ExpoLiteError("No run was finished, so that there is nothing to compare; see above.")
    return results, failures


def base_jobs(plan: SweepPlan) -> list[Job]:
    """The evaluations of the untrained models."""
    return [
        Job(file.stem, file, _log(plan, file.stem), partial(evaluate_base, config, file))
        for file, config in plan.bases().items()
    ]


def diagnosis_jobs(plan: SweepPlan) -> list[Job]:
    """A diagnosis of the base for each seed, where the plan asks for them."""
    if not plan.diagnose_problems:
        return []
    shared = plan.any_config
    jobs = []
    for seed in plan.seeds:
        folder = plan.folder / f"diagnosis-seed{seed}"
        settings = DiagnoseConfig(
            model=str(shared.start_from or shared.model),
            task=shared.task,
            problems=plan.diagnose_problems,
            group_size=shared.group_size,
            max_completion_tokens=shared.sampling.max_completion_tokens,
            bits=shared.policy.bits,
            sampling_rows=shared.sampling.sampling_rows or MOST_SAMPLING_ROWS,
            seed=seed,
            question_prompt=shared.question_prompt,
            explanation_prompt=shared.explanation.explanation_prompt,
            data=shared.data,
        )
        jobs.append(
            Job(folder.name, folder / RESULTS, _log(plan, folder.name), partial(diagnose_anew, settings, folder))
        )
    return jobs


def run_jobs(plan: SweepPlan) -> list[Job]:
    """Every run of every seed, all runs of a seed before the next seed's."""
    return [
        Job(
            c.output.name,
            RunFolder(c.output).evaluation_file(c.steps),
            _log(plan, c.output.name),
            partial(train_from, plan.base_file(c), c),
        )
        for c in plan.configs()
    ]


def _log(plan: SweepPlan, name: str) -> Path:
    return plan.folder / "logs" / f"{name}.txt"


def evaluate_base(config: RunConfig, file: Path) -> None:
    """Evaluate as the loop does before its first step, with the sampler and the rows that fit."""
    config, _ = fitted(config)
    with Grader(rounding=config.data.rounding) as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        policy = load_policy(config.model, config.policy, seed=config.seed, adapter=starting_adapter(config))
        result = evaluate_held_out(
            policy, task, held_out(task, config, policy, read_prompts(*config.prompt_files)), config
        )
    write_atomically(file, json.dumps(result.to_json(), indent=2) + "\n")


def train_from(base: Path, config: RunConfig) -> None:
    """Train, or go on, from the evaluation of the untrained model that is in `base`."""
    folder = RunFolder(config.output)
    if not folder.config_file.exists():
        shutil.rmtree(folder.path, ignore_errors=True)  # broken off while it was made
        fitted_config, _ = fitted(config)  # as the loop will ask for it
        folder.create(fitted_config, device=describe(find_device()), start=starting_adapter(config))
    if not folder.evaluation_file(0).exists():
        write_atomically(folder.evaluation_file(0), base.read_text(encoding="utf-8"))
    train(config, console=Terminal())


def diagnose_anew(config: DiagnoseConfig, folder: Path) -> None:
    """Diagnose, whatever an attempt that was broken off has left."""
    shutil.rmtree(folder, ignore_errors=True)
    target = find_target(str(config.model), bits=config.bits)
    with Grader(rounding=config.data.rounding) as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        prompts = read_prompts(config.question_prompt, config.explanation_prompt)
        problems = problems_of(
            task, config.split, levels=(), limit=config.problems, seed=0, warn=lambda line: None, prompts=prompts
        )
        diagnose_target(target, task, problems, config, folder)


def check_runs(plan: SweepPlan) -> None:
    """Whether the runs that are there are the plan's; raises ConfigError if one has other settings."""
    for wanted in plan.configs():
        folder = RunFolder(wanted.output)
        if folder.config_file.exists():
            there = read_config(folder.path)
            config, _ = fitted(wanted, there)
            if replace(there, output=config.output, resume=True) != config:
                raise ConfigError(
                    f"The run in '{folder.path}' has other settings than the plan. Choose another --output."
                )


def carry_out(jobs: Iterable[Job], *, console: Console, workers: Workers) -> dict[str, str]:
    """Do what is not done yet; returns what failed, by name.

    Raises:
        ExpoLiteError: a process was killed, and nobody starts it again.
    """
    missing = [job for job in jobs if not job.done.exists()]
    failures: dict[str, str] = {}
    started = time.monotonic()
    if not missing:
        return failures
    for n_done, (job, failure) in enumerate(workers(missing), 1):
        if failure is not None:
            failures[job.name] = failure
        minutes = (time.monotonic() - started) / 60
        left = minutes / n_done * (len(missing) - n_done)
        outcome = "done" if failure is None else "failed"
        so_far = f"{n_done}/{len(missing)}, {minutes:.1f} min, about {left:.0f} left"
        say(console, f"{job.name}: {outcome} ({so_far})")
    return failures


def collect_results(plan: SweepPlan) -> Results:
    """What is there of the plan's results."""
    runs: dict[str, dict[int, RunResult]] = {name: {} for name in plan.runs}
    diagnoses: dict[int, dict[str, Any]] = {}
    for seed in plan.seeds:
        for name in plan.runs:
            config = plan.config(name, seed)
            folder = RunFolder(config.output)
            before, after = (folder.evaluation_file(step) for step in (0, config.steps))
            if after.exists():
                runs[name][seed] = RunResult(_evaluation(before), _evaluation(after), folder.metrics.read())
        file = plan.folder / f"diagnosis-seed{seed}" / RESULTS
        if file.exists():
            diagnoses[seed] = json.loads(file.read_text(encoding="utf-8"))["levels"][-1]
    k = K if min(config.evaluation.eval_samples for config in plan.runs.values()) >= K else 1
    return Results(runs, diagnoses, k, plan.base_names)


def _evaluation(file: Path) -> Evaluation:
    return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8")))
