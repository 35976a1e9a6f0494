"""The training loop: sample, explain, learn, measure, save."""

import contextlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from expo_lite.errors import DivergedError
from expo_lite.grading import Grader
from expo_lite.measure.chains import diagnose
from expo_lite.measure.first_look import CHAINS, look_first, looked_at
from expo_lite.measure.held_out import evaluate_once, held_out, load_evaluation
from expo_lite.measure.on_the_way import evaluate_on_the_way, is_due, keep_best_of_all
from expo_lite.memory.context import fitting
from expo_lite.memory.limits import Limits, fitted, peak_memory_gib
from expo_lite.memory.parts import GIB
from expo_lite.memory.plan import MemoryPlan
from expo_lite.policy.device import describe, find_device
from expo_lite.policy.factory import load_policy
from expo_lite.results.figures import Evaluation
from expo_lite.results.tables import before_and_after
from expo_lite.run.dashboard import binned, sparkline, title_of
from expo_lite.run.folder import RunFolder, check_new, locked, read_config, resuming
from expo_lite.run.health import STALLED_STEPS, findings, no_gradient
from expo_lite.run.logs import Logs
from expo_lite.run.metrics import explanation_metrics, group_metrics, mean, sample_rows
from expo_lite.run.progress import Display, Stopped, StopRequests, working
from expo_lite.run.target import resolve_run, run_prompts, starting_adapter
from expo_lite.run.trace import traced
from expo_lite.settings.methods import METHODS
from expo_lite.settings.schema import to_json
from expo_lite.settings.train import RunConfig, TrainConfig
from expo_lite.step.experience import sample_experience
from expo_lite.step.learn import learn
from expo_lite.step.methods import METHOD_ROWS, coefficient_in_force
from expo_lite.step.optimizer import make_optimizer
from expo_lite.step.pairs import pair_rows
from expo_lite.step.rollout import draw
from expo_lite.step.run import (
    CHECKED_PROBLEMS,
    Run,
    both_prompts,
    check_sampler,
    last_good,
    restore,
    save,
    training_problems,
)
from expo_lite.tasks import Task, load_task
from expo_lite.terminal import Terminal, say, warning

TREND_BINS = 30


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What became of a run: its folder, the steps done, and its evaluations (None where there was none)."""

    folder: Path
    steps: int
    finished: bool
    before: Evaluation | None
    after: Evaluation | None


def train(config: TrainConfig, *, task: Task | None = None, console: Console | None = None) -> TrainingResult:
    """Train as configured, and evaluate before and after.

    Args:
        config: the settings; what they leave open follows from the model and the machine.
        task: what to train on, for example of `task_from_rows`; default: the one that the settings name.
        console: where to print what goes on; default: nowhere.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong; the run folder can be resumed.
    """
    console = console or Terminal(quiet=True)
    if task is not None:
        return train_on(task, resolve_run(replace(config, task=task.name)), console)
    resolved = resolve_run(config)
    with Grader(rounding=resolved.data.rounding) as grader:
        named = load_task(resolved.task, grader=grader, options=resolved.data, levels=resolved.levels)
        return train_on(named, resolved, console)


def train_on(task: Task, config: RunConfig, console: Console) -> TrainingResult:
    """Train on a task with resolved settings; prints what goes on, and raises what `train` does."""
    folder = RunFolder(config.output)
    if not config.resume:
        check_new(folder.path)
    with StopRequests(console) as stops:
        run = start(task, config, folder, console)
        with locked(folder.path):
            before = after = None
            try:
                resume(run, console)
                check_sampler(run, console)
                look_first(run, console, stops)
                with contextlib.closing(Logs(config.log, folder.path, to_json(run.config), run.limits.warn)) as logs:
                    before = evaluate_once(run, 0, console, stops) if run.step == 0 else load_evaluation(run, 0)
                    logs.evaluation(0, before)
                    finished = run_steps(run, console, stops, logs)
                    after = evaluate_once(run, run.step, console, stops) if finished else None
                    logs.evaluation(run.step, after)
                if finished:
                    keep_best_of_all(run, console)
            except Stopped:
                finished = False
    if finished:
        summarise(run, before, after, console)
        say(console, f"look at it: expo-lite report {run.config.output}")
        say(console, f"ask it: expo-lite chat {run.config.output}; take it away: expo-lite export {run.config.output}")
    else:
        say(console, f"Stopped and saved after step {run.step}. Continue with: {resuming(run.config.output)}")
    say(console, f"run folder: {run.config.output}")
    return TrainingResult(run.config.output, run.step, finished, before, after)


def start(task: Task, config: RunConfig, folder: RunFolder, console: Console) -> Run:
    """Load the policy, and make the run folder unless it is there."""
    warn = warning(console)
    device = describe(find_device())
    say(console, f"device: {device}")
    config, plan = fitted(config, read_config(folder.path) if config.resume else None)
    prompts = run_prompts(config, folder, warn)
    problems = training_problems(task, config, prompts, warn)
    if config.resume:
        folder.check(config)
    adapter = starting_adapter(config, folder)
    with working(console, f"loading {config.model}"):
        policy = load_policy(config.model, config.policy, seed=config.seed, adapter=adapter)
    if adapter is not None:
        policy.keep_reference()
    problems = fitting(problems, config.model, config.longest_completion, tokenizer=lambda: policy.tokenizer, warn=warn)
    if not config.resume:
        folder.create(config, device=device, start=adapter)
    optimizer = make_optimizer(policy, config)
    tested = held_out(task, config, policy, prompts, warn)
    limits = Limits.of(config, warn=warn)
    run = Run(config, folder, policy, task, problems, tested, optimizer, limits)
    if plan is not None:
        run.planned_gib = planned_peak_gib(run, plan)
        if not plan.fits:
            warn(f"this run needs {plan.describe()}")
    return run


def planned_peak_gib(run: Run, plan: MemoryPlan) -> float:
    """The plan's peak for what this run has to hold: its own longest prompt, and its rows."""
    config, n = run.config, run.config.problems_per_step
    longest = sorted((*run.problems, *run.held_out), key=lambda problem: len(problem.question))[-CHECKED_PROBLEMS:]
    evaluated = len(run.held_out) * (config.evaluation.eval_samples + 1)
    learned = n * (config.group_size + config.explanation.explanations_per_problem)
    scored = CHAINS * len(looked_at(config, run.problems))
    own = plan.of_run(
        prompt_tokens=max(map(len, both_prompts(run, longest))),
        sampled_rows=max(n * config.group_size, evaluated),
        learned_rows=max(learned, scored),
    )
    return own.measurable_peak / GIB


def resume(run: Run, console: Console) -> None:
    """Go on from the newest whole checkpoint, if there is one."""
    if not run.config.resume:
        return
    resumed_from, damaged = run.folder.cut_back()
    for line in damaged:
        run.limits.warn(f"{line}; going on from an older one.")
    if resumed_from is not None:
        restore(run, resumed_from)
        say(console, f"resumed at step {run.step} from '{resumed_from}'")


def run_steps(run: Run, console: Console, stops: StopRequests, logs: Logs) -> bool:
    """Take the steps that remain; False if a signal cut them short. Either way the last one is saved.

    Raises:
        Stopped: a stop was asked for in an evaluation on the way.
    """
    total = run.config.steps
    # not the first step, which pays for what later ones find ready
    profiled = min(run.step + 1, total - 1) if run.config.profile else None
    rows, stalled = run.folder.metrics.read(), False
    for row in rows:
        logs.step(row)  # what a logger has missed: it may be new to this run
    title, samples = title_of(run.folder.path, run.config), run.folder.samples.path
    with Display(console, total, title=title, rows=rows, samples=samples) as display:
        while run.step < total and not stops.requested:
            if is_due(run):
                with display.paused():
                    enough = evaluate_on_the_way(run, console, stops)
                logs.evaluation(run.step, load_evaluation(run, run.step))
                if enough:
                    return True
            trace = run.folder.path / f"profile-{run.step + 1:06d}.json.gz"
            with traced(trace) if run.step == profiled else contextlib.nullcontext():
                metrics = take_step(run)
            display.step(run.step, metrics)
            logs.step({"step": run.step, **metrics})
            rows.append(metrics)
            if not stalled and len(rows) >= STALLED_STEPS and (finding := no_gradient(rows)):
                stalled = True
                run.limits.warn(str(finding))
            if run.step % run.config.save_every == 0 or run.step == total or stops.requested or is_due(run):
                save(run)
    return run.step >= total


def take_step(run: Run) -> dict[str, float]:
    """One step: sample groups and chains, update on them, write down what happened."""
    config, started, n_before = run.config, time.monotonic(), run.policy.n_sampled_tokens
    problems = draw(run.problems, config.problems_per_step, step=run.step, seed=config.seed)
    experience = sample_experience(run, problems)
    groups, explanations = experience.groups, experience.explanations
    sampled = time.monotonic()
    rows = METHOD_ROWS[config.method](experience, config)
    metrics = (group_metrics(groups) if groups else {}) | experience.metrics
    if not math.isfinite(metrics.get("sampling/nll", 0.0)):
        raise DivergedError(
            f"Step {run.step + 1}: the policy's log-probabilities are no longer finite. The last good checkpoint is "
            f"{last_good(run, before=run.step)}. Lower --learning-rate and start anew."
        )
    if explanations:
        metrics |= explanation_metrics(explanations)
    if experience.attempts:
        metrics["expo/attempt_accept_rate"] = mean(attempt.accepted for attempt in experience.attempts)
    scaled = METHODS[config.method].scaled and config.chain_source != "none"
    if scaled:
        metrics["expo/sft_coef"] = coefficient_in_force(config, experience.progress)
    diagnosed = bool(config.diagnostics_every) and run.step % config.diagnostics_every == 0
    if diagnosed:
        metrics |= run.limits.updating(
            lambda: diagnose(run.policy, groups, explanations, token_budget=run.limits.micro_batch_tokens)
        )
    learning = time.monotonic()
    good = last_good(run, before=run.step + 1)
    metrics |= learn(
        run.policy,
        run.optimizer,
        rows,
        config,
        step=run.step,
        last_good=good,
        limits=run.limits,
        measure_share=scaled and diagnosed,
    )
    ended = time.monotonic()
    n_sampled = run.policy.n_sampled_tokens - n_before
    run.step += 1
    metrics |= {
        "num_tokens": float(n_sampled),
        "step_time": ended - started,
        "time/sample_s": sampled - started,
        "time/score_s": learning - sampled,
        "time/update_s": ended - learning,
        "sampling/tokens_per_s": n_sampled / (sampled - started),
        "peak_memory_gib": peak_memory_gib(),
    }
    if run.planned_gib is not None:
        metrics["memory/planned_gib"] = run.planned_gib
    if metrics["update/n_rows"]:
        metrics["update/tokens_per_s"] = metrics["update/n_tokens"] / (ended - learning)
    run.folder.samples.append(sample_rows(groups, explanations, step=run.step, attempts=experience.attempts))
    if experience.new_pairs:
        run.folder.pairs.append(pair_rows(run.policy, experience.new_pairs, step=run.step))
    run.folder.metrics.append([{"step": run.step, **metrics}])
    return metrics


def summarise(run: Run, before: Evaluation | None, after: Evaluation | None, console: Console) -> None:
    """Print what changed: pass@k by level, and the fraction of all-wrong groups over time."""
    if after is not None:
        console.print(before_and_after(before, after))
    rows = run.folder.metrics.read()
    values = [row["frac_all_wrong"] for row in rows if "frac_all_wrong" in row]  # absent where nothing was sampled
    if trend := binned(values, TREND_BINS):
        say(console, f"all-wrong groups over {len(values)} steps: {trend[0]:.0%} {sparkline(trend)} {trend[-1]:.0%}")
    for finding in findings(rows):
        run.limits.warn(str(finding))
