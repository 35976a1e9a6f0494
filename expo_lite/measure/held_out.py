"""The evaluations of a run on held-out problems, before and after training: made once, and kept while they are made."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from expo_lite.errors import CheckpointError
from expo_lite.measure.evaluate import evaluate
from expo_lite.memory.context import fitting
from expo_lite.memory.limits import Limits
from expo_lite.memory.plan import MOST_SAMPLING_ROWS
from expo_lite.policy.base import Policy, listening
from expo_lite.records import Problem, Prompts
from expo_lite.results.figures import Evaluation
from expo_lite.run.folder import write_atomically
from expo_lite.run.progress import StopRequests, completion_bar
from expo_lite.settings.groups import HeldOutConfig
from expo_lite.settings.train import RunConfig
from expo_lite.step.run import Run
from expo_lite.tasks import Task, problems_of
from expo_lite.terminal import say


def held_out(
    task: Task, config: RunConfig, policy: Policy, prompts: Prompts, warn: Callable[[str], None] = lambda line: None
) -> list[Problem]:
    """The held-out problems of all levels that fit into the model's context: the same for every seed, so that seeds
    differ in training alone.
    """  # noqa: D205 (one sentence)
    n, tokens = config.evaluation.eval_problems, config.sampling.max_completion_tokens
    said = warn if n != HeldOutConfig().eval_problems else lambda line: None  # the default asks for what there is
    problems = problems_of(task, "test", levels=(), limit=n, seed=0, warn=said, prompts=prompts) if n else []
    return fitting(problems, config.model, tokens, tokenizer=lambda: policy.tokenizer, warn=warn)


def evaluate_once(run: Run, step: int, console: Console, stops: StopRequests) -> Evaluation | None:
    """The evaluation after `step` steps: read if it has been made, else made and written; None if switched off.

    Raises:
        Stopped: a stop was asked for; what has been sampled is kept.
    """
    done = load_evaluation(run, step)
    if done is not None or not run.held_out:
        return done
    n = len(run.held_out)
    say(console, f"evaluating on {n} held-out problem{'s' * (n > 1)} ...")
    file = run.folder.evaluation_file(step)
    total = len(run.held_out) * (run.config.evaluation.eval_samples + 1)
    with completion_bar(console, "evaluating", total) as bar, listening(run.policy, bar.ended):
        result = evaluate_held_out(
            run.policy,
            run.task,
            run.held_out,
            run.config,
            limits=run.limits,
            folder=file.with_suffix(""),
            advance=stops.before(bar),
        )
    write_atomically(file, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def evaluate_held_out(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: RunConfig,
    *,
    limits: Limits | None = None,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Evaluation:
    """Evaluate as a run's settings ask for it; the same random numbers for every run, before and after."""
    return evaluate(
        policy,
        task,
        problems,
        config.evaluation,
        max_completion_tokens=config.sampling.max_completion_tokens,
        rows=config.sampling.sampling_rows or MOST_SAMPLING_ROWS,
        seed=0,
        limits=limits or Limits.of(config),
        folder=folder,
        advance=advance,
    )


def load_evaluation(run: Run, step: int) -> Evaluation | None:
    """The evaluation after `step` steps if it has been made.

    Raises:
        CheckpointError: its file is damaged.
    """
    file = run.folder.evaluation_file(step)
    try:
        return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"The evaluation in '{file}' is damaged. Remove the file, and go on with --resume."
        ) from error
