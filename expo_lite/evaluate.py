"""Evaluation on held-out problems: greedy accuracy and unbiased pass@k, by level, with intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from expo_lite.config import EvalConfig, EvaluationConfig
from expo_lite.intervals import Estimate, bootstrap_mean, pass_at_k, wilson
from expo_lite.metrics import mean
from expo_lite.policy.base import Policy
from expo_lite.records import FinishReason, Group, GroupKind, Problem, SamplingParams
from expo_lite.rollout import roll_out, stream_seed
from expo_lite.tasks import Task

__all__ = ["Estimate", "Evaluation", "LevelResult", "evaluate", "run_eval"]

@dataclass(frozen=True, slots=True)
class LevelResult:
    """What was measured on the problems of one level (or "all")."""

    level: str
    n_problems: int
    n_samples: int
    greedy: Estimate
    pass_at: dict[int, Estimate]
    frac_all_wrong: float
    truncated_rate: float
    no_answer_rate: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one policy, level by level."""

    levels: tuple[LevelResult, ...]
    temperature: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Evaluation":
        """Take back what `to_json` gave."""
        levels = tuple(
            LevelResult(
                **row
                | {
                    "greedy": Estimate(**row["greedy"]),
                    "pass_at": {int(k): Estimate(**estimate) for k, estimate in row["pass_at"].items()},
                }
            )
            for row in values["levels"]
        )
        return cls(levels, values["temperature"])


def evaluate(
    policy: Policy, task: Task, problems: Sequence[Problem], config: EvaluationConfig, *, max_completion_tokens: int, rows: int, seed: int
) -> Evaluation:
    """Sample and grade each problem, once greedily and `eval_samples` times at `eval_temperature`.

    The same seed gives the same random numbers to every policy, so that before and after are compared on equal terms.
    """  # fmt: skip
    params = SamplingParams(config.eval_temperature, max_completion_tokens, config.eval_top_p, rows)
    sampled = roll_out(
        policy, task, problems=problems, group_size=config.eval_samples, params=params, seed=stream_seed(seed, "evaluation")
    ).groups
    greedy = roll_out(
        policy, task, problems=problems, group_size=1, params=SamplingParams(0.0, max_completion_tokens, rows=rows), seed=0
    ).groups
    levels = sorted({problem.level for problem in problems if problem.level is not None})
    results = [
        level_result(
            str(level),
            [group for group in sampled if group.problem.level == level],
            [group for group in greedy if group.problem.level == level],
            config.k,
        )
        for level in levels
    ]
    if len(levels) != 1:
        results.append(level_result("all", sampled, greedy, config.k))
    return Evaluation(tuple(results), config.eval_temperature)


def level_result(level: str, sampled: Sequence[Group], greedy: Sequence[Group], ks: Sequence[int]) -> LevelResult:
    """The figures of one set of problems."""
    counts = [(len(group.verdicts), sum(v.correct for v in group.verdicts)) for group in sampled]
    completions = [completion for group in sampled for completion in group.completions]
    verdicts = [verdict for group in sampled for verdict in group.verdicts]
    return LevelResult(
        level=level,
        n_problems=len(sampled),
        n_samples=counts[0][0],
        greedy=wilson(sum(group.verdicts[0].correct for group in greedy), len(greedy)),
        pass_at={k: bootstrap_mean([pass_at_k(n, c, k) for n, c in counts]) for k in ks},
        frac_all_wrong=mean(group.kind is GroupKind.ALL_WRONG for group in sampled)
        if counts[0][0] > 1
        else mean(not v.correct for v in verdicts),
        truncated_rate=mean(c.finish_reason is FinishReason.LENGTH for c in completions),
        no_answer_rate=mean(verdict.answer is None for verdict in verdicts),
    )


def run_eval(config: EvalConfig) -> None:
    """Measure a run or a model, write the figures and print them."""
    raise NotImplementedError
