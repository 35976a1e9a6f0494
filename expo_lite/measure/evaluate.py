"""Evaluation: greedy accuracy, avg@n, unbiased pass@k and maj@k by level and subject, with intervals; alone or against another.

`evaluate` is for a policy in memory, as the training loop has one. `run_eval` is the command: it streams its samples into a
folder (see collect.py) and measures a baseline on the same problems with the same random numbers. With the same problems and
settings both give the same figures.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from expo_lite.grading import Grader
from expo_lite.measure.figures import Evaluation, LevelResult, differences, evaluation_of
from expo_lite.measure.samples import Plan, SampleFolder, collect, measured, sample_wave
from expo_lite.measure.statistics import Estimate
from expo_lite.measure.tables import difference_table, evaluation_tables
from expo_lite.policy.base import Policy
from expo_lite.records import Problem, SamplingParams
from expo_lite.run.target import Located, locate
from expo_lite.settings.config import EvalConfig, EvaluationConfig, TaskOptions, check_eval, to_json
from expo_lite.settings.models import OTHER
from expo_lite.tasks import Task, load_task

__all__ = ["Estimate", "Evaluation", "LevelResult", "evaluate", "run_eval"]

RESULTS = "evaluation.json"
BASELINE = "baseline"


def evaluate(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: EvaluationConfig,
    *,
    max_completion_tokens: int,
    rows: int,
    seed: int,
) -> Evaluation:
    """Sample and grade each problem, once greedily and `eval_samples` times at `eval_temperature`.

    The same seed gives the same random numbers to every policy, so that before and after are compared on equal terms.
    """  # fmt: skip
    params = SamplingParams(config.eval_temperature, max_completion_tokens, config.eval_top_p, rows)
    plan = Plan(tuple(problems), config.eval_samples, params, seed)
    sampled = [row for wave in plan.waves() for row in sample_wave(policy, task, wave, plan)]
    return evaluation_of(measured(plan, sampled), config.k, config.eval_temperature)


def run_eval(config: EvalConfig) -> None:
    """Measure a run or a model, and its difference to a baseline if one is given; write the figures and print them.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong; the output folder can be resumed.
    """
    check_eval(config)
    console = Console()
    find = partial(
        locate, base_model=config.base_model, bits=config.bits, backend=config.backend, sampler=config.sampler
    )
    target = find(config.target)
    other = find(config.baseline) if config.baseline else None
    config = settle(config, target)
    output = output_folder(config, target)
    with Grader() as grader:
        task = load_task(str(config.task), grader=grader, options=config.data)
        plan = plan_of(config, task)
        folders = [
            SampleFolder(path, settings(config, located, plan))
            for path, located in ((output, target), (output / BASELINE, other))
            if located
        ]
        for folder in folders:
            folder.check(resume=config.resume)
        ours = collect(folders[0], target, plan, task, console)
        theirs = collect(folders[1], other, plan, task, console) if other else []
    evaluation = evaluation_of(ours, config.ks, config.temperature)
    baseline = evaluation_of(theirs, config.ks, config.temperature) if other else None
    paired = differences(ours, theirs, config.ks) if other else []
    results = {
        "settings": to_json(config),
        "evaluation": evaluation.to_json(),
        "baseline": baseline.to_json() if baseline else None,
        "differences": [asdict(difference) for difference in paired],
    }
    folders[0].write(RESULTS, [json.dumps(results, indent=2)])
    if other and baseline:
        console.print(*evaluation_tables(baseline, name=other.label))
    console.print(*evaluation_tables(evaluation, name=target.label))
    if other:
        title = f"{target.label} minus {other.label}: paired, percentage points with 95% intervals"
        console.print(difference_table(paired, title=title))
    console.print(f"written to: {output}", markup=False, soft_wrap=True)


def settle(config: EvalConfig, target: Located) -> EvalConfig:
    """Fill in what the run's own settings or the model decide."""
    run = target.config
    own_task = run is not None and config.task in (None, run.task)
    return replace(
        config,
        task=config.task or (run.task if run else "arithmetic"),
        levels=config.levels or (run.levels if run and own_task else ()),
        data=run.data if run and own_task and config.data == TaskOptions() else config.data,
        max_completion_tokens=config.max_completion_tokens or target.max_completion_tokens,
        bits=target.policy.bits,
        k=config.ks,
    )


def output_folder(config: EvalConfig, target: Located) -> Path:
    """Where the results go: as given, else in the run's folder, else under runs/."""
    if config.output:
        return config.output
    name = f"{str(config.task).partition(':')[0]}-{config.split}-seed{config.seed}"
    if target.run and target.adapter:
        return target.run / "evaluation" / f"{target.adapter.name}-{name}"
    return Path("runs") / f"eval-{target.label}-{name}"


def plan_of(config: EvalConfig, task: Task) -> Plan:
    """What a settled configuration asks to be sampled; problems are chosen as the training loop chooses held-out ones."""
    problems = task.problems(config.split, levels=config.levels, limit=config.problems, seed=0)
    tokens = config.max_completion_tokens or OTHER.max_completion_tokens
    params = SamplingParams(config.temperature, tokens, config.top_p, config.sampling_rows)
    return Plan(tuple(problems), config.samples, params, config.seed)


def settings(config: EvalConfig, located: Located, plan: Plan) -> dict[str, object]:
    """What the samples depend on; k is not among it, so that other k can be had of the same samples."""
    return {**located.identity(), "task": config.task, "split": config.split, **plan.settings()}
