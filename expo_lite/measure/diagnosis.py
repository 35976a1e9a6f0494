"""`expo-lite diagnose`: the two properties of a good positive, measured for a model and a task before a night is spent on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expo_lite.errors import CheckpointError
from expo_lite.grading import Grader
from expo_lite.measure.diagnose import KINDS, LevelDiagnosis, chain_figures, diagnosis
from expo_lite.measure.statistics import Estimate
from expo_lite.policy.base import Policy
from expo_lite.policy.factory import load_policy
from expo_lite.records import Explanation, Group, Problem, SamplingParams
from expo_lite.run.checkpoint import write_atomically
from expo_lite.run.folder import provenance
from expo_lite.run.metrics import JsonLines, sample_rows
from expo_lite.run.target import locate
from expo_lite.settings.config import (
    MOST_MICRO_BATCH_TOKENS,
    DiagnoseConfig,
    ExplanationConfig,
    check_diagnose,
    default_model,
    to_json,
)
from expo_lite.step.explain import judge
from expo_lite.step.rollout import roll_out, stream_seed
from expo_lite.tasks import Task, load_task

RESULTS = "diagnosis.json"
SAMPLES = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The levels' figures, and the samples that they were measured on."""

    levels: tuple[LevelDiagnosis, ...]
    groups: tuple[Group, ...]
    explanations: tuple[Explanation, ...]


def run_diagnose(config: DiagnoseConfig) -> None:
    """Sample groups and one explanation a problem, measure them and the expert chains, print and write the figures.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong.
    """
    check_diagnose(config)
    located = locate(
        config.model or default_model(),
        base_model=config.base_model,
        bits=config.bits,
        backend=config.backend,
        sampler=config.sampler,
    )
    folder = config.output or Path("runs") / f"diagnose-{located.label}-{config.task.partition(':')[0]}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"The folder '{folder}' exists. Choose another one with --output.")
    tokens = config.max_completion_tokens or located.max_completion_tokens
    params = SamplingParams(config.temperature, tokens, config.top_p, config.sampling_rows)
    with Grader() as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        problems = task.problems(config.split, levels=config.levels, limit=config.problems, seed=0)
        policy = load_policy(located.model, located.policy, seed=0, adapter=located.adapter)
        result = measure(policy, task, problems, config, params)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"settings": to_json(config), **provenance(str(policy.device))}
    rows = {"levels": [level.to_json() for level in result.levels]}
    JsonLines(folder / SAMPLES).append(sample_rows(result.groups, result.explanations, step=0))
    write_atomically(folder / RESULTS, json.dumps(about | rows, indent=2) + "\n")
    console = Console()
    console.print(*tables(result.levels, name=f"{located.label} on {config.task}", group_size=config.group_size))
    for line in verdict(result.levels[-1]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to: {folder}", markup=False, soft_wrap=True)


def measure(
    policy: Policy, task: Task, problems: Sequence[Problem], config: DiagnoseConfig, params: SamplingParams
) -> Diagnosis:
    """Everything that the command measures, on these problems."""
    rolled = roll_out(
        policy,
        task,
        problems=problems,
        to_explain=problems,
        group_size=config.group_size,
        params=params,
        seed=stream_seed(config.seed, "diagnose"),
    )
    budget = MOST_MICRO_BATCH_TOKENS
    filters = ExplanationConfig(explanation_filter=config.explanation_filter)
    explanations = judge(policy, rolled.attempts, filters, token_budget=budget)
    figures = chain_figures(policy, rolled.groups, explanations, token_budget=budget)
    levels = diagnosis(rolled.groups, explanations, figures)
    return Diagnosis(tuple(levels), rolled.groups, tuple(explanations))


def tables(levels: Sequence[LevelDiagnosis], *, name: str, group_size: int) -> list[Table]:
    """Chains by kind, then rates."""
    title = f"{name}: chains under the plain prompt, with 95% intervals over problems"
    chains = Table(title=escape(title), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    rates = Table(title="percent, with 95% intervals", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    chains.add_column("level")
    rates.add_column("level")
    for column in (*(f"NLL a token, {kind}" for kind in KINDS), "expert / expl.", *(f"lift, {kind}" for kind in KINDS)):
        chains.add_column(column, justify="right")
    for column in ("problems", "right", f"all {group_size} wrong", "truncated", "explanations accepted", "leaking"):
        rates.add_column(column, justify="right")
    for row in levels:
        figures = (*(row.nll[kind] for kind in KINDS), row.nll_ratio, *(row.lift[kind] for kind in KINDS))
        chains.add_row(row.level, *map(_number, figures))
        shares = (row.reward, row.all_wrong, row.truncated, row.accepted, row.leaking)
        rates.add_row(row.level, f"{row.n_problems:,}", *(_number(e, scale=100, digits=1) for e in shares))
    return [chains, rates]


def verdict(row: LevelDiagnosis) -> list[str]:
    """What the figures say about the two properties, in words; of the last row, all levels together."""
    explained, expert, own = row.nll["explanation"], row.nll["expert"], row.nll["own"]
    lift, own_lift = row.lift["explanation"], row.lift["own"]
    if explained is None or lift is None or own is None or own_lift is None:
        return ["No explanation was accepted: there is nothing to learn from here."]
    compared = f"{explained.value:.2f} nats a token, own chains {own.value:.2f}"
    compared += f", expert chains {expert.value:.2f}" if expert else "; there are no expert chains"
    helps = "more" if lift.value > own_lift.value else "no more"
    return [
        f"in distribution: explanations {compared}",
        f"positive signal: explanations raise the answer's log-probability by {lift.value:.2f} nats, {helps} than own chains ({own_lift.value:.2f})",
    ]


def _number(estimate: Estimate | None, *, scale: float = 1.0, digits: int = 2) -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}\n[dim]{low} to {high}[/dim]"
