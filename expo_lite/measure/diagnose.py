"""Whether explanations are good positives: probable under the plain prompt, and of use for the answer.

Own chains, explanations and expert chains are compared on the same problems: negative log-likelihood a token (nats),
and the answer lift log pi(a*|q, c) - log pi(a*|q). The loop logs means; a `Diagnosis` gives each level its intervals
over problems.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from expo_lite.measure.explaining import sample_attempts
from expo_lite.measure.statistics import Estimate, bootstrap_mean, wilson
from expo_lite.measure.verdict import Facts, LevelVerdict, closing_line, judge_level
from expo_lite.memory.context import fitting
from expo_lite.memory.limits import Limits, fitted_policy
from expo_lite.policy.base import Policy, listening
from expo_lite.policy.batching import Row
from expo_lite.policy.factory import load_policy
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_explanation, encode_question, read_explanation_prompt
from expo_lite.records import Explanation, FinishReason, Group, GroupKind, Problem, SamplingParams
from expo_lite.run.files import JsonLines, write_atomically
from expo_lite.run.folder import make_folder, provenance
from expo_lite.run.metrics import mean, sample_rows
from expo_lite.run.progress import completion_bar, working
from expo_lite.run.target import Target
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.schema import to_json
from expo_lite.step.chain_text import leaks
from expo_lite.step.explain import answer_lifts, best, encode_target, judge
from expo_lite.step.rederive import judge_within, rederived_within
from expo_lite.step.rollout import Rollout, roll_out, stream_seed
from expo_lite.tasks import Task
from expo_lite.tasks.base import ChecksSteps
from expo_lite.terminal import Terminal, warning

RESULTS = "diagnosis.json"
SAMPLES = "samples.jsonl"
KINDS = ("own", "explanation", "expert")
CONTROL: Final = "wrong-answer"
"""Chains that were written with another problem's answer shown, all of them, whatever they end with."""
LIFT_NAMES = {"own": "expo/answer_lift_own", "explanation": "expo/answer_lift", "expert": "expo/answer_lift_expert"}


@dataclass(frozen=True, slots=True)
class ChainFigure:
    """What one chain of one kind measured: negative log-likelihood (nats a token) and answer lift (nats)."""

    problem: Problem
    kind: str
    nll: float
    lift: float
    text: str = ""
    row: Row | None = None
    reliance: float | None = None
    """By how many nats a token an answer shown makes the chain more probable: the one it was written with."""


def chain_figures(
    policy: Policy,
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    *,
    token_budget: int,
    controls: Sequence[Explanation] = (),
) -> list[ChainFigure]:
    """One own chain a problem, the explanations that were accepted, the expert chains that there are, and controls."""
    chains: list[tuple[Problem, str, Row, str]] = []
    for e in controls:
        chains.append((e.problem, CONTROL, Row(e.prompt_ids, e.target_ids), e.completion.text))
    for group in groups:
        own = group.completions[0]
        chains.append((group.problem, "own", Row(own.prompt_ids, own.token_ids), own.text))
    for e in explanations:
        if e.accepted:
            chains.append((e.problem, "explanation", Row(e.prompt_ids, e.target_ids), e.completion.text))
    for problem in (group.problem for group in groups):
        if text := problem.expert_chain:
            row = Row(encode_question(policy.tokenizer, problem), encode_target(policy, text))
            chains.append((problem, "expert", row, text))
    scored = score_rows(policy, [row for _, _, row, _ in chains], temperature=1.0, token_budget=token_budget)
    lifts = answer_lifts(policy, [(problem, text) for problem, _, _, text in chains], token_budget=token_budget)
    return [
        ChainFigure(problem, kind, -float(logprobs_T.mean()), lift, text, row)
        for (problem, kind, row, text), logprobs_T, lift in zip(chains, scored, lifts, strict=True)
    ]


def diagnose(
    policy: Policy, groups: Sequence[Group], explanations: Sequence[Explanation], *, token_budget: int
) -> dict[str, float]:
    """Mean NLL a token of own, explanation and expert chains under the plain prompt, and mean lifts, as metrics.

    A kind that is absent has no entry.
    """
    figures = chain_figures(policy, groups, explanations, token_budget=token_budget)
    metrics = {}
    for kind in KINDS:
        if own := [figure for figure in figures if figure.kind == kind]:
            metrics[f"expo/nll_{kind}"] = mean(figure.nll for figure in own)
            metrics[LIFT_NAMES[kind]] = mean(figure.lift for figure in own)
    return metrics


@dataclass(frozen=True, slots=True)
class LevelDiagnosis:
    """The figures of one level, or of "all"; None for a kind of chain that is absent. Intervals are over problems.

    `nll` and `lift` are by kind of chain, `nll_ratio` is expert NLL over explanation NLL on the problems that have
    both. Of the own completions: `reward`, `all_wrong` (problems whose completions are all wrong) and `truncated`.
    """

    level: str
    n_problems: int
    reward: Estimate
    all_wrong: Estimate
    truncated: Estimate
    accepted: Estimate
    leaking: Estimate
    nll: dict[str, Estimate | None]
    lift: dict[str, Estimate | None]
    nll_ratio: Estimate | None
    right: dict[str, Estimate | None] = field(default_factory=dict)
    """By kind of chain: with the right answer; of explanations all attempts count, not only those accepted."""
    valid: dict[str, Estimate | None] = field(default_factory=dict)
    """By kind: with right steps, where the task can tell; of explanations those accepted."""
    reliance: dict[str, Estimate | None] = field(default_factory=dict)
    """By kind: nats a token by which an answer in the prompt makes the chain more probable."""
    rederived: Estimate | None = None
    """Of accepted explanations: those from which, without the answer, the policy reaches it again."""
    explanations_truncated: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an interval that a single problem leaves open has null for its ends."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


@dataclass(frozen=True, slots=True)
class Checks:
    """By kind and problem id: right answers, valid steps; and re-derived explanations by problem id."""

    right: dict[str, dict[str, bool]] = field(default_factory=dict)
    valid: dict[str, dict[str, bool]] = field(default_factory=dict)
    rederived: dict[str, bool] = field(default_factory=dict)


def levels_of(
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    figures: Sequence[ChainFigure],
    checks: Checks = Checks(),
) -> list[LevelDiagnosis]:
    """The figures by level, then of all where there is more than one level."""
    levels = sorted({g.problem.level for g in groups}, key=lambda level: (level is None, level))
    named: list[tuple[str, Callable[[Problem], bool]]] = [
        (str(level), lambda problem, level=level: problem.level == level)  # type: ignore[misc]
        for level in levels
        if level is not None
    ]
    if len(named) != 1:
        named.append(("all", lambda problem: True))
    return [
        _level(
            name,
            [g for g in groups if belongs(g.problem)],
            [e for e in explanations if belongs(e.problem)],
            [f for f in figures if belongs(f.problem)],
            checks,
        )
        for name, belongs in named
    ]


def _level(
    name: str,
    groups: Sequence[Group],
    explanations: Sequence[Explanation],
    figures: Sequence[ChainFigure],
    checks: Checks,
) -> LevelDiagnosis:
    by_kind = {kind: {f.problem.problem_id: f for f in figures if f.kind == kind} for kind in (*KINDS, CONTROL)}
    here = {group.problem.problem_id for group in groups}

    def shares(checked: dict[str, dict[str, bool]]) -> dict[str, Estimate | None]:
        return {kind: _checked(own, here) for kind, own in checked.items()}

    both = [(by_kind["expert"][i].nll, e.nll) for i, e in by_kind["explanation"].items() if i in by_kind["expert"]]
    return LevelDiagnosis(
        level=name,
        n_problems=len(groups),
        reward=bootstrap_mean([mean(group.rewards) for group in groups]),
        all_wrong=_share(group.kind is GroupKind.ALL_WRONG for group in groups),
        truncated=bootstrap_mean(
            [mean(c.finish_reason is FinishReason.LENGTH for c in group.completions) for group in groups]
        ),
        accepted=_share(e.accepted for e in explanations),
        leaking=_share(leaks(e.completion.text) for e in explanations),
        nll={kind: _unbounded([f.nll for f in own.values()]) for kind, own in by_kind.items()},
        lift={kind: _unbounded([f.lift for f in own.values()]) for kind, own in by_kind.items()},
        nll_ratio=_ratio(both),
        right=shares(checks.right),
        valid=shares(checks.valid),
        reliance={
            kind: _unbounded([f.reliance for f in own.values() if f.reliance is not None])
            for kind, own in by_kind.items()
        },
        rederived=_checked(checks.rederived, here),
        explanations_truncated=_share(e.completion.finish_reason is FinishReason.LENGTH for e in explanations),
    )


def _checked(checked: dict[str, bool], here: set[str]) -> Estimate | None:
    own = [flag for problem_id, flag in checked.items() if problem_id in here]
    return _share(own) if own else None


def _share(flags: Iterable[bool]) -> Estimate:
    values = list(flags)
    return wilson(sum(values), len(values))


def _unbounded(values: Sequence[float]) -> Estimate | None:
    return bootstrap_mean(values, lowest=-math.inf, highest=math.inf) if values else None


def _ratio(both: Sequence[tuple[float, float]]) -> Estimate | None:
    """The ratio of two means over the same problems; its interval is by bootstrap and the delta method."""
    below = mean(b for _, b in both)
    if not below:
        return None
    ratio = mean(a for a, _ in both) / below
    linear = _unbounded([(a - ratio * b) / below for a, b in both])
    return Estimate(ratio, ratio + linear.low, ratio + linear.high) if linear else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The levels' figures, and the samples that they were measured on."""

    levels: tuple[LevelDiagnosis, ...]
    groups: tuple[Group, ...]
    explanations: tuple[Explanation, ...]


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
    tokens = config.max_completion_tokens or target.max_completion_tokens
    params = SamplingParams(config.temperature, tokens, config.top_p, config.sampling_rows)
    settings, limits = fitted_policy(target.model, target.policy, params, warn)
    with working(console, f"loading {target.label}"):
        policy = load_policy(target.model, settings, seed=0, adapter=target.adapter)
    problems = fitting(problems, target.model, tokens, tokenizer=lambda: policy.tokenizer, warn=warn)
    result = measure(policy, task, problems, config, limits, params, console)
    make_folder(folder)
    about = {"settings": to_json(config), **provenance(str(policy.device))}
    verdicts = verdicts_of(result.levels)
    rows = {
        "levels": [level.to_json() for level in result.levels],
        "verdicts": {level: asdict(verdict) for level, verdict in verdicts.items()},
        "verdict": closing_line(verdicts),
    }
    JsonLines(folder / SAMPLES).append(sample_rows(result.groups, result.explanations, step=0))
    write_atomically(folder / RESULTS, json.dumps(about | rows, indent=2) + "\n")
    return result


def measure(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: DiagnoseConfig,
    limits: Limits,
    params: SamplingParams,
    console: Console,
) -> Diagnosis:
    """Everything that a diagnosis measures, on these problems."""
    prompt = read_explanation_prompt(config.explanation_prompt)
    n_completions = len(problems) * (config.group_size + 1)
    with completion_bar(console, "sampling", n_completions) as bar, listening(policy, bar.ended):
        rolled = limits.sampling(
            lambda: roll_out(
                policy,
                task,
                problems=problems,
                to_explain=problems,
                group_size=config.group_size,
                explain_with=config.explain_with,
                others=problems,
                params=replace(params, rows=limits.sampling_rows),
                explanation_prompt=prompt,
                seed=stream_seed(config.seed, "diagnose"),
            )
        )
    with working(console, "scoring chains"):
        return _measured(policy, task, problems, config, limits, params, prompt, rolled)


def _measured(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: DiagnoseConfig,
    limits: Limits,
    params: SamplingParams,
    prompt: str | None,
    rolled: Rollout,
) -> Diagnosis:
    """The figures of what has been sampled."""
    filters = ExpoConfig(explanation_filter=config.explanation_filter, explain_with=config.explain_with)
    judged = judge_within(policy, task, rolled.attempts, filters, params=params, limits=limits)
    explanations = [best(candidates) for candidates in judged]
    controls = _controls(policy, task, problems, config, limits, params, prompt)
    budget = limits.micro_batch_tokens
    figures = limits.updating(
        lambda: _with_reliance(
            policy,
            chain_figures(policy, rolled.groups, explanations, token_budget=budget, controls=controls),
            [*explanations, *controls],
            token_budget=budget,
        )
    )
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


def _controls(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    config: DiagnoseConfig,
    limits: Limits,
    params: SamplingParams,
    prompt: str | None,
) -> list[Explanation]:
    """An explanation of each problem that was shown another one's answer; none where there is no other answer."""
    if config.explain_with != "answer" or len({problem.answer for problem in problems}) < 2:
        return []
    attempts = sample_attempts(
        policy, task, problems, config, params, limits, explain_with=CONTROL, prompt=prompt, stream="control"
    )
    as_they_are = ExpoConfig(explanation_filter=("none",), explain_with=CONTROL)
    return judge(policy, attempts, as_they_are, token_budget=limits.micro_batch_tokens)


def _with_reliance(
    policy: Policy, figures: Sequence[ChainFigure], explained: Sequence[Explanation], *, token_budget: int
) -> list[ChainFigure]:
    """The figures with how much more probable each chain is behind the prompt that shows an answer."""
    shown = {(e.problem.problem_id, e.completion.text): e.completion.prompt_ids for e in explained}
    rows = [
        Row(
            shown.get((f.problem.problem_id, f.text)) or encode_explanation(policy.tokenizer, f.problem),
            f.row.completion_ids if f.row else (),
        )
        for f in figures
    ]
    scored = score_rows(policy, rows, temperature=1.0, token_budget=token_budget)
    return [
        replace(f, reliance=float(logprobs_T.mean()) + f.nll) for f, logprobs_T in zip(figures, scored, strict=True)
    ]


def _valid(task: Task, figures: Sequence[ChainFigure]) -> dict[str, dict[str, bool]]:
    """Right steps by kind and problem, where the task has a checker of steps."""
    if not isinstance(task, ChecksSteps):
        return {}
    return {
        kind: {f.problem.problem_id: task.check_steps(f.problem, f.text) == "valid" for f in figures if f.kind == kind}
        for kind in (*KINDS, CONTROL)
    }


def facts_of(row: LevelDiagnosis) -> Facts:
    """What the verdict looks at."""

    def value(estimate: Estimate | None) -> float | None:
        return None if estimate is None else estimate.value

    return Facts(
        n_problems=row.n_problems,
        right=row.reward.value,
        accepted=row.accepted.value,
        truncated=value(row.explanations_truncated) or 0.0,
        misled_right=value(row.right.get(CONTROL)),
        valid=value(row.valid.get("explanation")),
        rederived=value(row.rederived),
        lift=value(row.lift["explanation"]),
        own_lift=value(row.lift["own"]),
        nll=row.nll["explanation"],
        expert_nll=row.nll["expert"],
    )


def verdicts_of(levels: Sequence[LevelDiagnosis]) -> dict[str, LevelVerdict]:
    """The verdict on each level; on all together only where there are no levels."""
    single = [row for row in levels if row.level != "all"] or levels
    return {row.level: judge_level(facts_of(row)) for row in single}
