"""Evaluation: greedy accuracy, avg@n, unbiased pass@k and maj@k by level and subject, with intervals."""

from collections.abc import Callable, Sequence
from pathlib import Path

from expo_lite.measure.samples import SampleFolder, SampleSpec, graded_problems
from expo_lite.memory.limits import Limits
from expo_lite.memory.plan import MOST_MICRO_BATCH_TOKENS
from expo_lite.policy.base import Policy
from expo_lite.records import Problem, SamplingParams
from expo_lite.results.figures import Evaluation, evaluation_of
from expo_lite.settings.groups import HeldOutConfig
from expo_lite.tasks import Task

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
        config: how many samples, at which temperature, and which k.
        max_completion_tokens: the longest completion, in tokens.
        rows: completions that are written together where there is a folder.
        seed: of the samples.
        limits: how many completions are decoded at the same time; default: `rows`.
        folder: keeps the samples while they come; an evaluation that was broken off goes on there.
        advance: told how many completions have been made, each time that some have.

    Raises:
        ExpoLiteError: memory runs out, or the folder cannot be written or holds samples of other settings.
    """
    params = SamplingParams(config.eval_temperature, max_completion_tokens, config.eval_top_p, rows)
    spec = SampleSpec(tuple(problems), config.eval_samples, params, seed)
    kept = SampleFolder(folder, spec.settings()) if folder else None
    if kept:
        kept.check(resume=True)
    limits = limits or Limits(MOST_MICRO_BATCH_TOKENS, rows)
    graded = graded_problems(spec, task, lambda: policy, limits=limits, folder=kept, advance=advance)
    return evaluation_of(graded, config.k, config.eval_temperature)
