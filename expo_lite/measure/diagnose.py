"""Diagnosis: are explanations good positives, probable under the plain prompt and of use for the answer?

Of a run or model by the command `diagnose`, and of a long run before its first step. The loop logs means; a `Diagnosis`
gives each level its intervals over problems.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from expo_lite.measure.verdict import (
    CONTROL,
    KINDS,
    QUARTERS,
    REFUSED,
    ChainFigure,
    LevelDiagnosis,
    LevelVerdict,
    closing_line,
    levels_of,
    verdicts_of,
)
from expo_lite.memory.limits import Limits, fitted_policy, fitting
from expo_lite.policy.base import Policy, having
from expo_lite.policy.batching import Row
from expo_lite.policy.factory import load_policy
from expo_lite.prompts import encode_shown
from expo_lite.records import ALL, Explanation, Group, Level, Problem, SamplingParams
from expo_lite.run.folder import JsonLines, make_folder, provenance, write_json
from expo_lite.run.metrics import mean, sample_rows
from expo_lite.run.progress import CompletionBar, StopRequests, working
from expo_lite.run.target import Target, params_of
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.schema import to_json
from expo_lite.settings.train import RunConfig
from expo_lite.step.explain import Rollout, answer_lifts, best, encode_chain, judge, roll_out, score_once
from expo_lite.step.rollout import stream_seed
from expo_lite.step.run import Run
from expo_lite.tasks import Task
from expo_lite.tasks.base import ChecksSteps, steps_right
from expo_lite.terminal import say, warning

RESULTS = "diagnosis.json"
SAMPLES = "samples.jsonl"
LIFT_NAMES = {"own": "expo/answer_lift_own", "explanation": "expo/answer_lift", "expert": "expo/answer_lift_expert"}
LONG = 50
"""Steps from which on a run is diagnosed first: a shorter one shows as soon itself."""
CHAINS = len((*KINDS, CONTROL))
"""Chains that are scored of each problem: its own, an explanation, an expert's, and one of a wrong answer."""


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


@dataclass(frozen=True, slots=True)
class Subject:
    """The policy and the problems to diagnose, and the settings to do it with."""

    policy: Policy
    task: Task
    problems: Sequence[Problem]
    config: DiagnoseConfig
    explaining: ExpoConfig
    """Settings that sample and judge explanations: one a problem."""
    limits: Limits
    params: SamplingParams
    others: Sequence[Problem]
    """Problems whose answers are shown as wrong ones."""

    def roll_out(self, stream: str, problems: Sequence[Problem], explaining: ExpoConfig) -> Rollout:
        """Sample groups of these problems, and an explanation of every problem."""
        return roll_out(
            self.policy,
            self.task,
            problems=problems,
            to_explain=self.problems,
            group_size=self.config.group_size,
            explaining=explaining,
            others=self.others,
            params=self.params,
            limits=self.limits,
            seed=stream_seed(self.config.seed, stream),
        )

    def judge(self, attempts: Sequence[Group], explaining: ExpoConfig) -> list[Explanation]:
        """The explanation of each problem."""
        judged = judge(self.policy, self.task, attempts, explaining, limits=self.limits)
        return [best(candidates) for candidates in judged]


def diagnose_target(
    target: Target,
    task: Task,
    problems: Sequence[Problem],
    config: DiagnoseConfig,
    folder: Path,
    console: Console,
) -> Diagnosis:
    """Load a run or model, sample groups and explanations of these problems, measure them, and write all of it.

    Raises:
        ExpoLiteError: the model cannot be loaded, memory runs out, or the folder cannot be written.
    """
    warn = warning(console)
    params = params_of(config, target)
    settings, limits = fitted_policy(target.model, target.policy, params, warn)
    with working(console, f"loading {target.label}"):
        policy = load_policy(target.model, settings, seed=0, adapter=target.adapter)
    tokens, commit = params.max_completion_tokens, target.policy.revision
    problems = fitting(problems, target.model, tokens, revision=commit, tokenizer=lambda: policy.tokenizer, warn=warn)
    result = measure(Subject(policy, task, problems, config, config.explaining, limits, params, problems), console)
    make_folder(folder)
    about = {"settings": to_json(config), **provenance(str(policy.device))}
    JsonLines(folder / SAMPLES).append(sample_rows(result.groups, result.explanations, step=0))
    write_json(folder / RESULTS, about | result.to_json())
    return result


def diagnose_first(run: Run, console: Console, stops: StopRequests) -> None:
    """Print and keep the verdict, once in a long run whose method learns from explanations.

    Raises:
        Stopped: a stop was asked for; the resumed run begins with the diagnosis again.
    """
    config, file = run.config, run.folder.path / RESULTS
    problems = diagnosed(config, run.problems)
    if not problems or run.step or file.exists():
        return
    explaining = replace(config.explanation, explanations_per_problem=1)
    settings = DiagnoseConfig(group_size=config.group_size, seed=config.seed)
    say(console, f"diagnosing {len(problems)} of the problems to train on ...")
    subject = Subject(run.policy, run.task, problems, settings, explaining, run.limits, run.params, run.problems)
    diagnosis = measure(subject, console, stops.before)
    kept = diagnosis.to_json()
    for line in (*diagnosis.in_words(), kept["verdict"]):
        say(console, line)
    write_json(file, kept)


def diagnosed(config: RunConfig, problems: Sequence[Problem]) -> list[Problem]:
    """The first few problems of each level that `diagnose_first` takes; none if the run is too short."""
    if config.steps < LONG or config.chain_source != "explanation":
        return []
    seen: Counter[Level | None] = Counter()
    taken = []
    for problem in problems:
        seen[problem.level] += 1
        if seen[problem.level] <= config.diagnose_first:
            taken.append(problem)
    return taken


def measure(
    subject: Subject, console: Console, watched: Callable[[Callable[[int], None]], Callable[[int], None]] = lambda f: f
) -> Diagnosis:
    """Sample, judge and score everything that a diagnosis needs, on these problems.

    What counts the completions that end is wrapped by `watched`, which may raise, to stop.
    """
    n_completions = len(subject.problems) * (subject.config.group_size + 1)
    with CompletionBar(console, "sampling", n_completions) as bar, having(subject.policy, on_ended=watched(bar.ended)):
        rolled = subject.roll_out("diagnose", subject.problems, subject.explaining)
    with working(console, "scoring chains"):
        return _measured(subject, rolled)


def _measured(subject: Subject, rolled: Rollout) -> Diagnosis:
    """The figures of what has been sampled."""
    explanations = subject.judge(rolled.attempts, subject.explaining)
    about = {"controls": _controls(subject), "whole": True}
    scored = subject.limits.scored(chain_figures, subject.policy, rolled.groups, explanations, **about)
    figures = [replace(f, valid=_steps_right(subject.task, f)) for f in scored]
    return Diagnosis(tuple(levels_of(rolled.groups, explanations, figures)), rolled.groups, tuple(explanations))


def _steps_right(task: Task, chain: ChainFigure) -> bool | None:
    """Check a chain's steps; a wrong answer's arithmetic says nothing of them."""
    if chain.right is False and not isinstance(task, ChecksSteps):
        return None
    return steps_right(task, chain.problem, chain.text)


def _controls(subject: Subject) -> list[Explanation]:
    """An explanation of each problem that was shown another one's answer; empty if there is no other answer."""
    if subject.explaining.explain_with != "answer" or len({problem.answer for problem in subject.others}) < 2:
        return []
    as_they_are = replace(subject.explaining, explanation_filter=("none",), explain_with=CONTROL)
    return subject.judge(subject.roll_out("control", (), as_they_are).attempts, as_they_are)


def chain_figures(
    policy: Policy,
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    *,
    token_budget: int,
    controls: Sequence[Explanation] = (),
    whole: bool = False,
) -> list[ChainFigure]:
    """Score one own chain of each problem, accepted explanations, expert chains, and controls.

    `whole` adds refused explanations, and the reliance of all chains; else only explanations have one.
    """
    chains: list[tuple[Problem, str, str, bool | None, tuple[int, ...], tuple[tuple[int, ...], ...]]] = []
    for e in (*controls, *(e for e in explanations if e.accepted or whole)):
        kind = CONTROL if e in controls else "explanation" if e.accepted else REFUSED
        prompts = (e.prompt_ids, e.completion.prompt_ids, e.prompt_ids + e.outline_ids)
        chains.append((e.problem, kind, e.completion.text, e.verdict.correct, e.target_ids, prompts))
    for group in groups:
        problem, sampled = group.problem, group.completions[0]
        plain = sampled.prompt_ids
        prompts = (plain, encode_shown(policy.tokenizer, problem) if whole else plain, plain)
        chains.append((problem, "own", sampled.text, group.verdicts[0].correct, sampled.token_ids, prompts))
        if expert := problem.expert_chain:
            chains.append((problem, "expert", expert, None, encode_chain(policy, problem), prompts))
    rows = [Row(prompt, target_ids) for *_, target_ids, prompts in chains for prompt in prompts]
    scored = score_once(policy, rows, token_budget=token_budget)
    lifts = answer_lifts(policy, [(problem, text) for problem, _, text, *_ in chains], token_budget=token_budget)
    figures = []
    for i, (problem, kind, text, right, *_) in enumerate(chains):
        nats, answered, unanswered = scored[3 * i : 3 * i + 3]
        gap = answered - unanswered if whole or kind == "explanation" else nats[:0]
        parts = gap.tensor_split(QUARTERS) if len(gap) >= QUARTERS else ()
        by_quarter = tuple(float(part.mean()) for part in parts)
        reliance = float(gap.mean()) if len(gap) else None
        figures.append(ChainFigure(problem, kind, -float(nats.mean()), lifts[i], text, reliance, by_quarter, right))
    return figures


def chain_metrics(
    policy: Policy, groups: Sequence[Group], explanations: Sequence[Explanation], *, limits: Limits
) -> dict[str, float]:
    """Mean NLL a token of own, explanation and expert chains under the plain prompt, and mean lifts, as metrics.

    And where explanations lean on the answer, by quarter. A kind that is absent has no entry.
    """
    figures = limits.scored(chain_figures, policy, groups, explanations)
    metrics = {}
    for kind in KINDS:
        if own := [figure for figure in figures if figure.kind == kind]:
            metrics[f"expo/nll_{kind}"] = mean(figure.nll for figure in own)
            metrics[LIFT_NAMES[kind]] = mean(figure.lift for figure in own)
    for number, quarter in enumerate(zip(*(f.anchoring for f in figures if f.anchoring), strict=True), 1):
        metrics[f"expo/anchoring/{number}"] = mean(quarter)
    return metrics
