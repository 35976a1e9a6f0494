"""Evaluations: greedy accuracy, avg@n, pass@k and maj@k by level and subject, and those of a run, each made once.

The best of a run's checkpoints is kept under its own name.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from expo_lite.measure.samples import SampleFolder, SampleSpec, graded_problems
from expo_lite.memory.limits import Limits, fitting
from expo_lite.memory.plan import MOST_MICRO_BATCH_TOKENS
from expo_lite.policy.base import Policy, having
from expo_lite.records import Problem, Prompts, SamplingParams
from expo_lite.results.figures import Evaluation, evaluation_of
from expo_lite.results.record import read_evaluation
from expo_lite.run.checkpoint import keep_best, step_of
from expo_lite.run.folder import write_json
from expo_lite.run.progress import CompletionBar, StopRequests
from expo_lite.settings.groups import HeldOutConfig
from expo_lite.settings.train import RunConfig
from expo_lite.step.run import Run
from expo_lite.tasks import Task, problems_of
from expo_lite.terminal import say

_DEFAULT = HeldOutConfig()


def evaluate(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: HeldOutConfig = _DEFAULT,
    *,
    max_completion_tokens: int = 1024,
    rows: int = 256,
    seed: int = 0,
    limits: Limits | None = None,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Evaluation:
    """Sample and grade each problem, once greedily and `eval_samples` times at `eval_temperature`.

    The same seed gives the same random numbers to every policy, so that before and after are compared on equal terms.

    Args:
        policy: what is measured.
        task: what grades.
        problems: what it is measured on.
        config: how many samples, and at which temperature.
        max_completion_tokens: the longest completion, in tokens.
        rows: completions that are decoded at the same time.
        seed: of the samples.
        limits: in place of `rows`, if memory may run out.
        folder: keeps the samples while they come; an evaluation that was broken off continues there.
        advance: told how many completions have been made, each time that some have.

    Raises:
        ExpoLiteError: memory runs out, or the folder cannot be written or holds samples of other settings.
    """
    limits = limits or Limits(MOST_MICRO_BATCH_TOKENS, rows)
    params = SamplingParams(config.eval_temperature, max_completion_tokens, rows=limits.sampling_rows)
    spec = SampleSpec(tuple(problems), config.eval_samples, params, seed)
    kept = SampleFolder(folder, spec.settings()) if folder else None
    if kept:
        kept.check(resume=True)
    graded = graded_problems(spec, task, lambda: policy, limits=limits, folder=kept, advance=advance)
    return evaluation_of(graded, config.eval_temperature)


def held_out(
    task: Task, config: RunConfig, policy: Policy, prompts: Prompts, warn: Callable[[str], None] = lambda line: None
) -> list[Problem]:
    """The held-out problems of all levels that fit the model's context, the same for every seed."""
    n, tokens = config.evaluation.eval_problems, config.sampling.max_completion_tokens
    said = warn if n != _DEFAULT.eval_problems else lambda line: None  # the default asks for what there is
    asked = Prompts(prompts.question)  # no other prompt decides which problems fit
    problems = problems_of(task, "test", levels=(), limit=n, seed=0, warn=said, prompts=asked) if n else []
    commit = config.policy.revision
    return fitting(problems, config.model, tokens, revision=commit, tokenizer=lambda: policy.tokenizer, warn=warn)


def evaluate_once(run: Run, console: Console, stops: StopRequests) -> Evaluation | None:
    """The evaluation after the steps done: read if it has been made, else made; None if switched off.

    Raises:
        Stopped: a stop was asked for; what has been sampled is kept.
    """
    done, config, problems = load_evaluation(run, run.step), run.config, run.held_out
    if done is not None or not problems:
        return done
    say(console, f"evaluating on {len(problems)} held-out problem{'s' * (len(problems) > 1)} ...")
    file = run.folder.evaluation_file(run.step)
    total = len(problems) * (config.evaluation.eval_samples + 1)
    with CompletionBar(console, "evaluating", total) as bar, having(run.policy, on_ended=bar.ended):
        result = evaluate(
            run.policy,
            run.task,
            problems,
            config.evaluation,
            max_completion_tokens=config.sampling.max_completion_tokens,
            limits=run.limits,
            folder=file.with_suffix(""),
            advance=stops.before(bar),
        )
    write_json(file, result.to_json())
    return result


def load_evaluation(run: Run, step: int) -> Evaluation | None:
    """The evaluation after `step` steps if it has been made.

    Raises:
        CheckpointError: its file is damaged.
    """
    file = run.folder.evaluation_file(step)
    return read_evaluation(file) if file.exists() else None


def is_due(run: Run) -> bool:
    """Return whether to evaluate between two steps; before the first and after the last one it is done anyway."""
    every = run.config.evaluation.eval_every
    return bool(every) and 0 < run.step < run.config.steps and run.step % every == 0


def evaluate_and_compare(run: Run, console: Console, stops: StopRequests) -> Evaluation | None:
    """Evaluate after the steps done; with --eval-every keep the checkpoint, which must be there, if it is the best.

    Raises:
        Stopped: a stop was asked for; what has been sampled is kept.
    """
    evaluation, every = evaluate_once(run, console, stops), run.config.evaluation.eval_every
    if evaluation is None or not every:
        return evaluation
    measured = run.folder.evaluation_files()  # also where the run had ended before
    found = {s: figure(read_evaluation(file)) for file in measured if (s := step_of(file)) <= run.step}
    best = max(found, key=lambda step: (found[step], -step))
    compared = f"best: {found[best]:.1%} {f'at step {best}' if best else 'before training'}"
    if best == run.step > 0:
        compared = f"the best so far: {keep_best(run.folder.checkpoints, run.step)}"
    say(console, f"step {run.step}: pass@1 {found[run.step]:.1%} ({compared})")
    return evaluation


def figure(evaluation: Evaluation) -> float:
    """The figure that checkpoints are compared by: pass@1 of all held-out problems."""
    return evaluation.levels[-1].pass_at[1].value
