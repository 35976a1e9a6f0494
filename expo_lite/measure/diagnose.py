"""Whether explanations are good positives: probable under the plain prompt, and of use for the answer.

The loop logs means; a `Diagnosis` gives each level its intervals over problems.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from expo_lite.measure.chains import CONTROL, KINDS, ChainFigure, chain_figures, with_reliance
from expo_lite.measure.explaining import sample_attempts
from expo_lite.measure.levels import Checks, LevelDiagnosis, levels_of, verdicts_of
from expo_lite.measure.verdict import LevelVerdict, closing_line
from expo_lite.memory.context import fitting
from expo_lite.memory.limits import Limits, fitted_policy
from expo_lite.policy.base import Policy, listening
from expo_lite.policy.factory import load_policy
from expo_lite.records import ALL, Explanation, Group, Problem, SamplingParams
from expo_lite.run.folder import JsonLines, make_folder, provenance, write_atomically
from expo_lite.run.metrics import sample_rows
from expo_lite.run.progress import completion_bar, working
from expo_lite.run.target import Target, params_of
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.schema import to_json
from expo_lite.step.explain import best
from expo_lite.step.rederive import judge_within, rederived_within
from expo_lite.step.rollout import Rollout, explanation_params, roll_out, stream_seed
from expo_lite.tasks import Task
from expo_lite.tasks.base import ChecksSteps
from expo_lite.terminal import Terminal, warning

RESULTS = "diagnosis.json"
SAMPLES = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The levels' figures, and the samples that they were measured on."""

    levels: tuple[LevelDiagnosis, ...]
    groups: tuple[Group, ...]
    explanations: tuple[Explanation, ...]

    @property
    def verdicts(self) -> dict[str, LevelVerdict]:
        """The verdict on each level."""
        return verdicts_of(self.levels)

    def to_json(self) -> dict[str, Any]:
        """Figures and verdicts as plain JSON values, without the samples."""
        verdicts = self.verdicts
        return {
            "levels": [level.to_json() for level in self.levels],
            "verdicts": {level: asdict(verdict) for level, verdict in verdicts.items()},
            "verdict": closing_line(verdicts),
        }

    def in_words(self) -> list[str]:
        """The verdict on each level, a line each."""
        return [
            f"{'' if level == ALL else f'level {level}: '}{v.outcome}; {v.why}" for level, v in self.verdicts.items()
        ]


def diagnose_target(
    target: Target,
    task: Task,
    problems: Sequence[Problem],
    config: DiagnoseConfig,
    folder: Path,
    console: Console | None = None,
) -> Diagnosis:
    """Load a run or model, sample groups and explanations of these problems, measure them, and write all of it.

    Raises:
        ExpoLiteError: the model cannot be loaded, memory runs out, or the folder cannot be written.
    """
    console = console or Terminal(quiet=True)
    warn = warning(console)
    params = params_of(config, target)
    settings, limits = fitted_policy(target.model, target.policy, params, warn)
    with working(console, f"loading {target.label}"):
        policy = load_policy(target.model, settings, seed=0, adapter=target.adapter)
    tokens = params.max_completion_tokens
    problems = fitting(problems, target.model, tokens, tokenizer=lambda: policy.tokenizer, warn=warn)
    result = measure(Subject(policy, task, problems, config, config.explaining, limits, params), console)
    make_folder(folder)
    about = {"settings": to_json(config), **provenance(str(policy.device))}
    JsonLines(folder / SAMPLES).append(sample_rows(result.groups, result.explanations, step=0))
    write_atomically(folder / RESULTS, json.dumps(about | result.to_json(), indent=2) + "\n")
    return result


@dataclass(frozen=True, slots=True)
class Subject:
    """What is diagnosed, and with what."""

    policy: Policy
    task: Task
    problems: Sequence[Problem]
    config: DiagnoseConfig
    explaining: ExpoConfig
    """How explanations are sampled and judged: one a problem."""
    limits: Limits
    params: SamplingParams


def measure(
    subject: Subject, console: Console, watched: Callable[[Callable[[int], None]], Callable[[int], None]] = lambda f: f
) -> Diagnosis:
    """Everything that a diagnosis measures, on these problems.

    What counts the completions that end is wrapped by `watched`, which may raise, to stop.
    """
    policy, config = subject.policy, subject.config

    def sample() -> Rollout:
        params = replace(subject.params, rows=subject.limits.sampling_rows)
        return roll_out(
            policy,
            subject.task,
            problems=subject.problems,
            to_explain=subject.problems,
            group_size=config.group_size,
            explain_with=subject.explaining.explain_with,
            others=subject.problems,
            params=params,
            explanation_params=explanation_params(subject.explaining, params),
            seed=stream_seed(config.seed, "diagnose"),
        )

    n_completions = len(subject.problems) * (config.group_size + 1)
    with completion_bar(console, "sampling", n_completions) as bar, listening(policy, watched(bar.ended)):
        rolled = subject.limits.sampling(sample)
    with working(console, "scoring chains"):
        return _measured(subject, rolled)


def _measured(subject: Subject, rolled: Rollout) -> Diagnosis:
    """The figures of what has been sampled."""
    policy, task, limits, params = subject.policy, subject.task, subject.limits, subject.params
    judged = judge_within(policy, task, rolled.attempts, subject.explaining, params=params, limits=limits)
    explanations = [best(candidates) for candidates in judged]
    controls = _controls(subject)

    def scored() -> list[ChainFigure]:
        budget = limits.micro_batch_tokens  # halved where memory runs out
        found = chain_figures(policy, rolled.groups, explanations, token_budget=budget, controls=controls, refused=True)
        return with_reliance(policy, found, [*explanations, *controls], token_budget=budget)

    figures = limits.updating(scored)
    accepted = [(e.problem, e.completion.text) for e in explanations if e.accepted]
    again = rederived_within(policy, task, accepted, params=params, limits=limits)
    checks = Checks(
        right={
            "own": {g.problem.problem_id: g.verdicts[0].correct for g in rolled.groups},
            "explanation": {e.problem.problem_id: e.verdict.correct for e in explanations},
            CONTROL: {e.problem.problem_id: e.verdict.correct for e in controls},
        },
        valid=_valid(task, figures),
        rederived={problem.problem_id: flag for (problem, _), flag in zip(accepted, again, strict=True)},
    )
    levels = levels_of(rolled.groups, explanations, figures, checks)
    return Diagnosis(tuple(levels), rolled.groups, tuple(explanations))


def _controls(subject: Subject) -> list[Explanation]:
    """An explanation of each problem that was shown another one's answer; none where there is no other answer."""
    config = subject.config
    if subject.explaining.explain_with != "answer" or len({problem.answer for problem in subject.problems}) < 2:
        return []
    attempts = sample_attempts(
        subject.policy,
        subject.task,
        subject.problems,
        config,
        explanation_params(subject.explaining, subject.params),
        subject.limits,
        explain_with=CONTROL,
        stream="control",
    )
    as_they_are = ExpoConfig(explanation_filter=("none",), explain_with=CONTROL)
    judged = judge_within(
        subject.policy, subject.task, attempts, as_they_are, params=subject.params, limits=subject.limits
    )
    return [best(candidates) for candidates in judged]


def _valid(task: Task, figures: Sequence[ChainFigure]) -> dict[str, dict[str, bool]]:
    """Right steps by kind and problem, where the task has a checker of steps."""
    if not isinstance(task, ChecksSteps):
        return {}
    return {
        kind: {f.problem.problem_id: task.check_steps(f.problem, f.text) == "valid" for f in figures if f.kind == kind}
        for kind in (*KINDS, CONTROL)
    }
