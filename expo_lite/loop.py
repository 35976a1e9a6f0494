"""The training loop: sample, explain, learn, measure, save."""

import contextlib
import io
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError

from expo_lite.errors import CheckpointError, ConfigError, DivergedError, ExpoLiteError, ModelError
from expo_lite.grading import Grader
from expo_lite.measure.diagnose import CHAINS, chain_metrics, diagnose_first, diagnosed
from expo_lite.measure.evaluate import evaluate_and_compare, evaluate_once, held_out, is_due, load_evaluation
from expo_lite.measure.samples import problems_sha256
from expo_lite.memory.limits import Limits, fitted, fitting, peak_memory_gib, peak_reserved_gib
from expo_lite.memory.machine import out_of_memory, short_of_memory
from expo_lite.memory.plan import GIB, MemoryPlan
from expo_lite.policy.device import describe, find_device
from expo_lite.policy.factory import load_policy
from expo_lite.prompts import prompts_as_read
from expo_lite.results.figures import Evaluation
from expo_lite.results.tables import before_and_after
from expo_lite.run.dashboard import binned, sparkline, title_of
from expo_lite.run.folder import RunFolder, check_new, locked, read_config, resuming
from expo_lite.run.health import STALLED_STEPS, findings, no_gradient
from expo_lite.run.logs import Logs
from expo_lite.run.metrics import sample_rows
from expo_lite.run.progress import Display, Stopped, StopRequests, working
from expo_lite.run.target import policy_settings, resolve_run, run_prompts, starting_adapter
from expo_lite.settings.machine import how_to_install, load_of_others, missed_unsloth
from expo_lite.settings.schema import to_json, typed
from expo_lite.settings.train import RunConfig, TrainConfig, check_of_use
from expo_lite.step import run as state
from expo_lite.step.learn import learn, learning_rate, make_optimizer
from expo_lite.step.methods import METHOD_ROWS, coefficient_in_force, experience_metrics, sample_experience
from expo_lite.step.pairs import pair_rows
from expo_lite.step.rollout import draw, remember
from expo_lite.step.run import CHECKED_PROBLEMS, Run
from expo_lite.tasks import Task, load_task
from expo_lite.tasks.base import say_read
from expo_lite.terminal import Terminal, command, counted, say, warning

TREND_BINS = 30
PAGE = 100
"""Columns of a result as text."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The end of a run: its folder, the steps done, and its evaluations (None if switched off)."""

    folder: Path
    steps: int
    finished: bool
    before: Evaluation | None
    after: Evaluation | None

    def __str__(self) -> str:
        """The run folder, and a table of what changed."""
        said = io.StringIO()
        console = Terminal(file=said, width=PAGE, force_jupyter=False)
        if self.after is not None:
            console.print(before_and_after(self.before, self.after))
        say(console, f"{counted(self.steps, 'step')}{'' if self.finished else ', not finished'}: {self.folder}")
        return said.getvalue().rstrip()


def train(
    config: TrainConfig, *, task: Task | None = None, console: Console | None = None, quiet: bool = False
) -> TrainingResult:
    """Train as configured, and evaluate before and after.

    Args:
        config: the settings; what they leave open follows from the model and the machine.
        task: what to train on, for example of `task_from_rows`; default: the one that the settings name.
        console: where to print what goes on; default: the terminal or the notebook, if there is one.
        quiet: print nothing, if no console is given.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong; the run folder can be resumed.
    """
    if console is None:
        console = Terminal()
        console.quiet = quiet or not (console.is_terminal or console.is_jupyter)
    resolved = resolve_run(replace(config, task=task.name) if task else config)
    if not config.resume and not isinstance(config, RunConfig):
        check_of_use(typed(config))
    if task is not None:
        return train_on(task, resolved, console)
    with Grader(rounding=resolved.data.rounding) as grader:
        named = load_task(resolved.task, grader=grader, options=resolved.data, levels=resolved.levels)
        return train_on(named, resolved, console)


def train_on(task: Task, config: RunConfig, console: Console) -> TrainingResult:
    """Train on a task with resolved settings; prints what goes on, and raises what `train` does."""
    folder = RunFolder(config.output)
    if not config.resume:
        check_new(folder.path)
    with StopRequests(console) as stops, contextlib.ExitStack() as held:
        run = start(task, config, folder, console, held)
        before = after = None
        state.resume(run, console)
        say_new_schedules(run)
        if run.step >= config.steps:
            say(console, f"This run has finished: all its {run.step} steps are done. Give more --steps to go on.")
        try:
            state.check_sampler(run, console)
            diagnose_first(run, console, stops)
            resumed, settings = run.step > 0, to_json(run.config)
            with contextlib.closing(Logs(config.log, folder, settings, run.limits.warn, resumed=resumed)) as logs:
                before = load_evaluation(run, 0) if resumed else evaluate_once(run, console, stops)
                if not resumed:
                    logs.evaluation(0, before)
                finished = run_steps(run, console, stops, logs)
                after = evaluate_and_compare(run, console, stops) if finished else None
                logs.evaluation(run.step, after)
        except Stopped:
            finished = False
        except (RuntimeError, MemoryError, CheckpointError) as error:
            if (failed := short_of_room(error, folder.path)) is None:
                raise
            raise failed from error
    if finished:
        summarise(run, before, after, console)
        for what, verb in (("look at it", "report"), ("ask it", "chat"), ("export it", "export")):
            say(console, f"{what}: {command(verb, run.config.output)}")
    else:
        say(console, f"Stopped and saved after step {run.step}. Continue with: {resuming(run.config.output)}")
    say(console, f"run folder: {run.config.output}")
    return TrainingResult(run.config.output, run.step, finished, before, after)


def short_of_room(error: Exception, folder: Path) -> ExpoLiteError | None:
    """Return the error of memory or of a disk that has run out, with the line that goes on; None for any other."""
    again = f" Then go on with {resuming(folder)}."
    if isinstance(error, CheckpointError) and isinstance(error.__cause__, OSError | SafetensorError):
        return CheckpointError(f"{error}{again}")
    if not isinstance(error, ExpoLiteError) and out_of_memory(error):
        return ModelError(f"{short_of_memory(error)}{again}")
    return None


def start(task: Task, config: RunConfig, folder: RunFolder, console: Console, held: contextlib.ExitStack) -> Run:
    """Load the policy, and make the run folder unless it is there; it is locked while `held` is open."""
    warn = warning(console)
    device = describe(find_device())
    busy = load_of_others() if device.startswith("cpu") else None
    say(console, f"device: {device}{(busy and '; ' + busy) or ''}")
    if config.policy.backend == "auto" and (missed := missed_unsloth()):
        say(console, f"{missed} To install it: {how_to_install('unsloth')}.")
    say_read(task, console)
    config, plan = fitted(config, read_config(folder.path) if config.resume else None)
    prompts = run_prompts(config, folder, warn)
    problems = state.training_problems(task, config, prompts, warn)
    if config.resume:
        folder.check(config)
        held.enter_context(locked(folder.path))  # before a second model takes the memory of a run that is alive
    limits = Limits.of(config, warn=warn, keeps=plan.keeps if plan else "inputs")
    if plan is not None and plan.workload.kind == "gpu":
        size = f"{limits.micro_batch_tokens:,} tokens"
        say(console, f"the update takes {size} at a time and keeps {limits.keeps}, by the memory plan")
    adapter = starting_adapter(config, folder)
    with working(console, f"loading {config.model}"):
        settings = policy_settings(config, folder)
        policy = load_policy(config.model, settings, seed=config.seed, adapter=adapter)
    config = replace(config, policy=replace(config.policy, revision=policy.revision or config.policy.revision))
    if adapter is not None:
        policy.keep_reference()
    tokens, commit = config.sampling.max_completion_tokens, config.policy.revision
    problems = fitting(problems, config.model, tokens, revision=commit, tokenizer=lambda: policy.tokenizer, warn=warn)
    state.check_chains(problems, config, "all are left out. Mend the data as the warnings above say")
    if not config.resume:
        folder.create(config, device=device, start=adapter)
        held.enter_context(locked(folder.path))
    shown = prompts_as_read(policy.tokenizer, prompts, config.explanation.explain_with)
    tested = held_out(task, config, policy, prompts, warn)
    digest = problems_sha256([*problems, *tested])
    about = folder.complete(
        template=policy.tokenizer.chat_template, prompts=shown, update_keeps=limits.keeps, problems_sha256=digest
    )
    if about["problems_sha256"] != digest:
        raise ConfigError(
            f"The problems of task '{config.task}' are not those that the run in '{folder.path}' began with. Resume it "
            "with the same data, or train on this data with another --output."
        )
    run = Run(config, folder, policy, task, problems, tested, make_optimizer(policy, config), limits)
    if plan is not None:
        run.planned_gib = planned_peak_gib(run, plan)
        if not plan.fits:
            warn(f"this run needs {plan.describe()}")
    return run


def say_new_schedules(run: Run) -> None:
    """Warn of coefficients that jump where a run goes on: their schedules are over another number of steps now."""
    config, last = run.config, run.step - 1
    for row in run.folder.metrics.read()[-1:]:
        scheduled = {"learning_rate": learning_rate(config, last)}
        scheduled["expo/sft_coef"] = coefficient_in_force(config, last / config.steps)
        for name, now in scheduled.items():
            if not math.isclose(row.get(name, now), now, abs_tol=1e-12):
                run.limits.warn(
                    f"{name} goes on as if the run had begun with {config.steps} steps: in the last step it was "
                    f"{row[name]:.2g}, where that schedule has {now:.2g}"
                )


def planned_peak_gib(run: Run, plan: MemoryPlan) -> float:
    """The plan's peak for this run's own longest prompt and rows."""
    config, n = run.config, run.config.problems_per_step
    longest = sorted((*run.problems, *run.held_out), key=lambda problem: len(problem.question))[-CHECKED_PROBLEMS:]
    evaluated = len(run.held_out) * (config.evaluation.eval_samples + 1)
    learned = n * (config.group_size + config.explanation.explanations_per_problem)
    scored = CHAINS * len(diagnosed(config, run.problems))
    own = plan.of_run(
        prompt_tokens=max(map(len, state.both_prompts(run, longest))),
        sampled_rows=max(n * config.group_size, evaluated),
        learned_rows=max(learned, scored),
    )
    return own.measurable_peak / GIB


def run_steps(run: Run, console: Console, stops: StopRequests, logs: Logs) -> bool:
    """Take the steps that remain; False if a signal cut them short. Either way the last one is saved.

    Raises:
        Stopped: a stop was asked for in an evaluation on the way.
    """
    total = run.config.steps
    stalled = False
    title, samples = title_of(run.folder.path, run.config), run.folder.samples.path
    with Display(console, total, title=title, rows=run.folder.metrics.read(), samples=samples) as display:
        while run.step < total and not stops.requested:
            if is_due(run):
                with display.paused():
                    logs.evaluation(run.step, evaluate_and_compare(run, console, stops))
            row = take_step(run)
            display.step(row)
            logs.step(row)
            if not stalled and len(display.rows) >= STALLED_STEPS and (finding := no_gradient(display.rows)):
                stalled = True
                run.limits.warn(str(finding))
            if run.step % run.config.save_every == 0 or run.step == total or stops.requested or is_due(run):
                state.save(run)
    return run.step >= total


def take_step(run: Run) -> dict[str, float]:
    """Sample groups and chains, update on them, and write down what happened; returns the row of metrics.jsonl."""
    config, policy, n_before = run.config, run.policy, run.policy.n_sampled_tokens
    n_scored, updating_s = policy.n_scored_tokens, run.limits.updating_s
    started = time.monotonic()
    n = config.problems_per_step
    problems = draw(run.problems, n, step=run.step, seed=config.seed, by=config.draw, rates=run.rates)
    experience = sample_experience(run, problems)
    remember(run.rates, experience.groups)
    rows = METHOD_ROWS[config.method](experience, config)
    metrics = experience_metrics(experience, config)
    if policy.n_scored_tokens > n_scored:  # before the diagnostics, which are no part of the method
        metrics["num_scored_tokens"] = float(policy.n_scored_tokens - n_scored)
    if not math.isfinite(metrics.get("sampling/nll", 0.0)):
        raise DivergedError(
            f"Step {run.step + 1}: the policy's log-probabilities are no longer finite. The last good checkpoint is "
            f"{state.last_good(run, before=run.step)}. Lower --learning-rate and start anew with another --output."
        )
    if config.diagnostics_every and run.step % config.diagnostics_every == 0:
        metrics |= chain_metrics(policy, experience.groups, experience.explanations, limits=run.limits)
    learning, score_s = time.monotonic(), run.limits.updating_s - updating_s
    sample_s = learning - started - score_s  # and grading
    good = state.last_good(run, before=run.step + 1)
    metrics |= learn(policy, run.optimizer, rows, config, step=run.step, last_good=good, limits=run.limits)
    ended = time.monotonic()
    metrics |= {
        "num_tokens": float(policy.n_sampled_tokens - n_before),
        "step_time": ended - started,
        "time/sample_s": sample_s,
        "time/score_s": score_s,
        "time/update_s": ended - learning,
        "sampling/tokens_per_s": (policy.n_sampled_tokens - n_before) / sample_s,
        "peak_memory_gib": peak_memory_gib(),
    }
    if policy.device.type == "cuda":
        metrics["memory/peak_reserved_gib"] = peak_reserved_gib()
    if run.planned_gib is not None:
        metrics["memory/planned_gib"] = run.planned_gib
    if metrics["update/n_rows"]:
        metrics["update/tokens_per_s"] = metrics["update/n_tokens"] * config.loss.updates_per_batch / (ended - learning)
    run.step += 1
    first = sample_rows(experience.groups, experience.explanations, step=run.step, attempts=experience.attempts)
    second = sample_rows(experience.second.values(), [], step=run.step)
    run.folder.samples.append([*first, *({**row, "kind": "second"} for row in second), *experience.written])
    if experience.new_pairs:
        run.folder.pairs.append(pair_rows(policy, experience.new_pairs, step=run.step))
    row = {"step": run.step, **metrics}
    run.folder.metrics.append([row])
    return row


def summarise(run: Run, before: Evaluation | None, after: Evaluation | None, console: Console) -> None:
    """Print what changed: pass@k by level, and the fraction of all-wrong groups over time."""
    if after is not None:
        console.print(before_and_after(before, after))
    rows = run.folder.metrics.read()
    values = [row["frac_all_wrong"] for row in rows if "frac_all_wrong" in row]  # absent where nothing was sampled
    if trend := binned(values, TREND_BINS):
        curve = f"{trend[0]:.0%} {sparkline(trend)} {trend[-1]:.0%}"
        say(console, f"all-wrong groups over {counted(len(values), 'step')}: {curve}")
    for finding in findings(rows, draw=run.config.draw):
        run.limits.warn(str(finding))
