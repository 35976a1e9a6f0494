"""Before a long run: whether explanations are good positives on the levels that it trains on, as `diagnose` says it."""

import json
from collections import Counter
from dataclasses import replace

from rich.console import Console

from expo_lite.measure.chains import CONTROL, KINDS
from expo_lite.measure.diagnose import RESULTS, Subject, measure
from expo_lite.records import Level, Problem, SamplingParams
from expo_lite.run.folder import write_atomically
from expo_lite.run.progress import StopRequests
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.train import RunConfig
from expo_lite.step.run import Run
from expo_lite.terminal import say

LONG = 50
"""Steps from which on a run is worth the look: a shorter one shows as soon itself."""
CHAINS = len((*KINDS, CONTROL))
"""Chains that are scored of each problem: its own, an explanation, an expert's, and one of a wrong answer."""


def look_first(run: Run, console: Console, stops: StopRequests) -> None:
    """Say and keep the verdict, once in a run whose method learns from explanations.

    Raises:
        Stopped: a stop was asked for; the resumed run begins with the look again.
    """
    config, file = run.config, run.folder.path / RESULTS
    problems = looked_at(config, run.problems)
    if not problems or run.step or file.exists():
        return
    sampling = config.sampling
    subject = Subject(
        run.policy,
        run.task,
        problems,
        DiagnoseConfig(group_size=config.group_size, seed=config.seed),
        replace(config.explanation, explanations_per_problem=1),
        run.limits,
        SamplingParams(sampling.temperature, sampling.max_completion_tokens),
    )
    say(console, f"diagnosing {len(problems)} of the problems to train on ...")
    diagnosis = measure(subject, console, stops.before)
    kept = diagnosis.to_json()
    for line in (*diagnosis.in_words(), kept["verdict"]):
        say(console, line)
    write_atomically(file, json.dumps(kept, indent=2) + "\n")


def looked_at(config: RunConfig, problems: list[Problem]) -> list[Problem]:
    """The first few problems of each level; none in a run that is not looked at."""
    if config.steps < LONG or config.chain_source != "explanation":
        return []
    seen: Counter[Level | None] = Counter()
    taken = []
    for problem in problems:
        seen[problem.level] += 1
        if seen[problem.level] <= config.diagnose_first:
            taken.append(problem)
    return taken
