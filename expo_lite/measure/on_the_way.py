"""Evaluations during training: the best checkpoint is kept under a name of its own, and training may end early."""

import json

from rich.console import Console

from expo_lite.measure.held_out import evaluate_once, load_evaluation
from expo_lite.records import ALL
from expo_lite.results.figures import Evaluation
from expo_lite.run.checkpoint import BEST, keep_best
from expo_lite.run.folder import write_atomically
from expo_lite.run.progress import StopRequests
from expo_lite.step.run import Run
from expo_lite.terminal import say


def is_due(run: Run) -> bool:
    """Whether the policy is to be measured at this step; before the first and after the last one it is anyway."""
    every = run.config.evaluation.eval_every
    return bool(every) and 0 < run.step < run.config.steps and run.step % every == 0


def evaluate_on_the_way(run: Run, console: Console, stops: StopRequests) -> bool:
    """Measure the policy at this step, whose checkpoint must be there; returns whether training is to end here.

    Raises:
        Stopped: a stop was asked for; what has been sampled is kept, and is gone on with.
    """
    evaluation = evaluate_once(run, run.step, console, stops)
    if evaluation is None:
        return False
    found, best = _measured(run)
    name, value = figure(evaluation)
    if best == run.step:
        _keep(run, value)
    elif best == 0:
        so_far = f"{found[0]:.1%} before training"
    else:
        so_far = f"{found[best]:.1%} at step {best}"
    say(
        console, f"step {run.step}: {name} {value:.1%} ({'the best so far' if best == run.step else f'best: {so_far}'})"
    )
    patience = run.config.evaluation.stop_after_worse
    n_worse = sum(step > best for step in found)
    if not patience or n_worse < patience:
        return False
    say(console, f"{n_worse} evaluations in a row were not better than the best: training ends here, as asked for.")
    return True


def keep_best_of_all(run: Run, console: Console) -> None:
    """After the last evaluation: keep the last checkpoint if it is the best, and say which one is."""
    if not run.config.evaluation.eval_every or load_evaluation(run, run.step) is None:
        return
    found, best = _measured(run)
    if best == 0:
        say(console, "No evaluation was better than the one before training.")
        return
    if best == run.step:
        _keep(run, found[best])
    say(console, f"best checkpoint: {run.folder.checkpoints / BEST} (step {best}, {found[best]:.1%})")


def figure(evaluation: Evaluation) -> tuple[str, float]:
    """What checkpoints are compared by: pass@k of all problems, for the smallest k that was measured."""
    row = evaluation.levels[-1]
    k = min(row.pass_at)
    return f"pass@{k} of {'all held-out problems' if row.level == ALL else 'held-out problems'}", row.pass_at[k].value


def _measured(run: Run) -> tuple[dict[int, float], int]:
    """The figure at each step up to this one that has been measured, and the first step that has the best."""
    every = run.config.evaluation.eval_every
    steps = {0, *range(every, run.step + 1, every), run.step}
    found = {s: figure(e)[1] for s in sorted(steps) if (e := load_evaluation(run, s)) is not None}
    return found, max(found, key=lambda step: (found[step], -step))


def _keep(run: Run, value: float) -> None:
    best = keep_best(run.folder.checkpoints, run.step)
    write_atomically(best / "best.json", json.dumps({"step": run.step, "figure": value}) + "\n")
