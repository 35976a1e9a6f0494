"""One explanation of each problem, sampled by themselves: the control of `diagnose`."""

from collections.abc import Sequence
from dataclasses import replace

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.records import Group, Problem, SamplingParams
from expo_lite.settings.groups import ExplainWith
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.step.rollout import roll_out, stream_seed
from expo_lite.tasks import Task


def sample_attempts(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: DiagnoseConfig,
    params: SamplingParams,
    limits: Limits,
    *,
    explain_with: ExplainWith,
    stream: str,
) -> tuple[Group, ...]:
    """One attempt at each problem, graded; `stream` names the seed."""
    return limits.sampling(
        lambda: roll_out(
            policy,
            task,
            to_explain=problems,
            group_size=1,
            explain_with=explain_with,
            others=problems,
            params=replace(params, rows=limits.sampling_rows),
            seed=stream_seed(config.seed, stream),
        )
    ).attempts
