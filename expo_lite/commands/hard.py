"""`expo-lite hard`: the problems that a model never solves, as a data file to train on.

What `--task jsonl:PATH` grades is the final answer against the reference. Of tasks with a checker of their own
(reasoning-gym) that is stricter than the checker where a problem has several right answers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich import box
from rich.table import Table

from expo_lite.commands.command import ConfiguredCommand, Inline, measured_problems, prompts_of, target_of
from expo_lite.commands.sampling import import_torch
from expo_lite.grading import Grader
from expo_lite.records import level_order
from expo_lite.run.target import params_of
from expo_lite.settings.measuring import HardConfig, check_measuring
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.results.figures import GradedProblem

HARD = "hard.jsonl"
SOLVE_RATES = "solve_rates.jsonl"


@dataclass(frozen=True, kw_only=True)
class Hard(ConfiguredCommand):
    """Find the problems that a model never solves, and write them as a data file to train on."""

    settings: Annotated[HardConfig, Inline]

    def run(self) -> None:
        """Sample a model over a split, and write the problems it never solved and the solve rates of all.

        Raises:
            ExpoLiteError: whatever can be foreseen to go wrong; the output folder can be resumed.
        """
        config = self.settings
        check_measuring(config)
        console = Terminal()
        target = target_of(config, config.model)
        prompts = prompts_of(config, target)
        params = params_of(config, target)
        kind = config.task.partition(":")[0]
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
            problems = measured_problems(task, config, prompts, console)
            import_torch(console)
            from expo_lite.commands.sampling import graded_target, sampled_problems
            from expo_lite.measure.samples import SampleFolder, SampleSpec

            problems = sampled_problems([target], problems, params.max_completion_tokens, console)
            spec = SampleSpec(tuple(problems), config.zero_of, params, config.seed, greedy=False)
            settings = {**target.identity(), "task": config.task, "split": config.split, **spec.settings()}
            folder = SampleFolder(config.output or Path("runs") / f"hard-{target.label}-{kind}", settings)
            folder.check(resume=config.resume)
            found = graded_target(target, spec, task, folder, console)
        unsolved = [m for m in found if m.n_correct == 0]
        folder.write(SOLVE_RATES, map(_line, map(solve_rate, found)))
        file = folder.write(HARD, map(_line, map(hard_problem, unsolved)))
        console.print(solve_table(found, f"{target.label} on {config.task} ({config.split})"))
        say(console, f"{len(unsolved):,} of {len(found):,} problems never solved in {config.zero_of} tries: {file}")
        if unsolved:
            say(console, f"train on them with --task jsonl:{file}")
        if unsolved and kind == "reasoning-gym":
            say(
                console,
                "note: from the file they are graded by their reference answer, not by reasoning-gym's checker.",
            )


def hard_problem(measured: "GradedProblem") -> dict[str, Any]:
    """A problem as a row that `--task jsonl:PATH` reads."""
    problem = measured.problem
    return {
        "problem_id": problem.problem_id,
        "question": problem.question,
        "answer": problem.answer,
        "level": problem.level,
        "subject": problem.subject,
        "expert_chain": problem.expert_chain,
        "solve_rate": measured.pass_at(1),
        "n_samples": len(measured.samples),
    }


def solve_rate(measured: "GradedProblem") -> dict[str, Any]:
    """How often a problem was solved."""
    return {
        "problem_id": measured.problem.problem_id,
        "level": measured.problem.level,
        "subject": measured.problem.subject,
        "n_correct": measured.n_correct,
        "n_samples": len(measured.samples),
        "solve_rate": measured.pass_at(1),
    }


def solve_table(found: Sequence["GradedProblem"], title: str) -> Table:
    """How many problems of each level were never, sometimes and always solved."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("level", "problems", "never solved", "sometimes", "always", "solve rate"):
        table.add_column(name, justify="left" if name == "level" else "right")
    for level in sorted({m.problem.level for m in found}, key=level_order):
        own = [m for m in found if m.problem.level == level]
        never = sum(m.n_correct == 0 for m in own)
        always = sum(m.n_correct == len(m.samples) for m in own)
        rate = sum(m.pass_at(1) for m in own) / len(own)
        counts = (len(own), never, len(own) - never - always, always)
        table.add_row("-" if level is None else str(level), *(f"{n:,}" for n in counts), f"{rate:.1%}")
    return table


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)
