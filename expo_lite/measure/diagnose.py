"""Whether explanations are good positives: probable under the plain prompt, and of use for the answer.

Own chains, explanations and expert chains are compared on the same problems: negative log-likelihood a token (nats),
and the answer lift log pi(a*|q, c) - log pi(a*|q). The loop logs means; a `Diagnosis` gives each level its intervals
over problems.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_lite.measure.statistics import Estimate, bootstrap_mean, wilson
from expo_lite.memory.context import fitting
from expo_lite.memory.limits import Limits, fitted_policy
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.factory import load_policy
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, FinishReason, Group, GroupKind, Problem, SamplingParams
from expo_lite.run.files import JsonLines, write_atomically
from expo_lite.run.folder import make_folder, provenance
from expo_lite.run.metrics import mean, sample_rows
from expo_lite.run.target import Target
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.schema import to_json
from expo_lite.step.explain import answer_lifts, encode_target, judge, leaks
from expo_lite.step.rollout import roll_out, stream_seed
from expo_lite.tasks import Task

RESULTS = "diagnosis.json"
SAMPLES = "samples.jsonl"
KINDS = ("own", "explanation", "expert")
LIFT_NAMES = {"own": "expo/answer_lift_own", "explanation": "expo/answer_lift", "expert": "expo/answer_lift_expert"}


@dataclass(frozen=True, slots=True)
class ChainFigure:
    """What one chain of one kind measured: negative log-likelihood (nats a token) and answer lift (nats)."""

    problem: Problem
    kind: str
    nll: float
    lift: float


def chain_figures(
    policy: Policy, groups: Sequence[Group], explanations: Sequence[Explanation], *, token_budget: int
) -> list[ChainFigure]:
    """One own chain a problem, the explanations that were accepted, and the expert chains that there are."""
    chains: list[tuple[Problem, str, Row, str]] = []
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
        ChainFigure(problem, kind, -float(logprobs_T.mean()), lift)
        for (problem, kind, _, _), logprobs_T, lift in zip(chains, scored, lifts, strict=True)
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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an interval that a single problem leaves open has null for its ends."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def levels_of(
    groups: Sequence[Group], explanations: Sequence[Explanation], figures: Sequence[ChainFigure]
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
        )
        for name, belongs in named
    ]


def _level(
    name: str, groups: Sequence[Group], explanations: Sequence[Explanation], figures: Sequence[ChainFigure]
) -> LevelDiagnosis:
    by_kind = {kind: {f.problem.problem_id: f for f in figures if f.kind == kind} for kind in KINDS}
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
    )


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
    warn: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Load a run or model, sample groups and explanations of these problems, measure them, and write all of it.

    Raises:
        ExpoLiteError: the model cannot be loaded, memory runs out, or the folder cannot be written.
    """
    tokens = config.max_completion_tokens or target.max_completion_tokens
    params = SamplingParams(config.temperature, tokens, config.top_p, config.sampling_rows)
    settings, limits = fitted_policy(target.model, target.policy, params, warn)
    policy = load_policy(target.model, settings, seed=0, adapter=target.adapter)
    problems = fitting(problems, target.model, tokens, tokenizer=lambda: policy.tokenizer, warn=warn)
    result = measure(policy, task, problems, config, limits, params)
    make_folder(folder)
    about = {"settings": to_json(config), **provenance(str(policy.device))}
    rows = {"levels": [level.to_json() for level in result.levels]}
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
) -> Diagnosis:
    """Everything that a diagnosis measures, on these problems."""
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
            seed=stream_seed(config.seed, "diagnose"),
        )
    )
    filters = ExpoConfig(explanation_filter=config.explanation_filter, explain_with=config.explain_with)
    explanations = limits.updating(
        lambda: judge(policy, rolled.attempts, filters, token_budget=limits.micro_batch_tokens)
    )
    figures = limits.updating(
        lambda: chain_figures(policy, rolled.groups, explanations, token_budget=limits.micro_batch_tokens)
    )
    levels = levels_of(rolled.groups, explanations, figures)
    return Diagnosis(tuple(levels), rolled.groups, tuple(explanations))
