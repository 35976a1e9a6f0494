"""`expo-lite sweep` and `expo-lite replicate`: a plan of runs, carried out and compared."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from expo_lite.commands.command import ConfiguredCommand, Inline, Printing
from expo_lite.commands.diagnose import Diagnose
from expo_lite.errors import ExpoLiteError
from expo_lite.grading import Grader
from expo_lite.prompts import read_prompts
from expo_lite.run.folder import RunFolder, write_atomically, write_json
from expo_lite.run.target import starting_adapter
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.plans import ReplicateConfig, RunsConfig, SweepConfig
from expo_lite.settings.train import RunConfig
from expo_lite.sweep.plan import REPLICATE, SweepPlan, read_plan
from expo_lite.sweep.results import Results
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal, say, warning


@dataclass(frozen=True, kw_only=True)
class Sweep(Printing, ConfiguredCommand):
    """Carry out a plan of training runs, and compare them over seeds.

    Example: expo-lite sweep ablate-gate --model tiny --seeds 0 1 2

    A plan of your own is a TOML file, with settings of `train`. With base = "remedies"
    it starts from a plan of the package, and replaces some of its values.

      seeds = [0, 1]
      common.steps = 100                      # for all runs
      runs.plain.method = "grpo"              # for the run named plain
      runs.gated.method = "exp-grpo"
      grid.sampling.temperature = [0.7, 1.0]  # each run with each of these
    """

    settings: Annotated[SweepConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then carry it out."""
        carry_out(self, read_plan(self.settings.plan, self.settings), self.settings)


@dataclass(frozen=True, kw_only=True)
class Replicate(Printing, ConfiguredCommand):
    """Run a fixed plan of training runs, and show which of the paper's claims hold.

    Example: expo-lite replicate --quick
    """

    settings: Annotated[ReplicateConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then carry it out."""
        carry_out(self, read_plan(self.settings.plan or Path(REPLICATE), self.settings), self.settings)


def carry_out(command: Printing, plan: SweepPlan, settings: RunsConfig) -> None:
    """Carry out what is left of a plan, print its tables and write its files.

    Raises:
        ExpoLiteError: a part failed; what is finished is kept and compared.
    """
    from expo_lite.sweep.claims import undecidable
    from expo_lite.sweep.run import Work, run_sweep

    if plan.diagnose_problems and (doubt := undecidable(plan.any_config.evaluation.eval_problems)):
        warning(command.messages())(doubt)
    work = Work(start_process, evaluate_base, diagnose_base, train_from)
    results, failures = run_sweep(plan, settings, work, command.messages())
    show_sweep(command, plan, results, failures)
    if failures:
        raise ExpoLiteError(f"{len(failures)} of the plan's parts failed, see above; --resume tries them again.")


def show_sweep(
    command: Printing, plan: SweepPlan, results: Results, failures: Mapping[str, str], page: Path | None = None
) -> None:
    """Write the files of a sweep, and print its tables; `page` is where the HTML goes in place of its folder."""
    from expo_lite.sweep.report import SweepReport

    report = SweepReport.of(plan, results, failures)
    *files, page = report.write(page)
    command.show((*report.tables(), report.sentence), report.to_json())
    for file in files:
        say(command.messages(), f"written to: {file}")
    say(command.messages(), f"open in a browser: {page.absolute().as_uri()}")


def start_process(threads: int) -> None:
    """Give a process of the sweep its share of the cores, unless OMP_NUM_THREADS says how many threads it has."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)


def evaluate_base(config: RunConfig, file: Path) -> None:
    """Evaluate as the loop does before its first step, with the sampler and the rows that fit."""
    from expo_lite.measure.evaluate import evaluate, held_out
    from expo_lite.memory.limits import Limits, fitted
    from expo_lite.policy.factory import load_policy

    config, _ = fitted(config)
    with Grader(rounding=config.data.rounding) as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        policy = load_policy(config.model, config.policy, seed=config.seed, adapter=starting_adapter(config))
        problems = held_out(task, config, policy, read_prompts(*config.prompt_files))
        tokens, limits = config.sampling.max_completion_tokens, Limits.of(config)
        result = evaluate(policy, task, problems, config.evaluation, max_completion_tokens=tokens, limits=limits)
    write_json(file, result.to_json())


def diagnose_base(settings: DiagnoseConfig) -> None:
    """Diagnose as the command does, after removing whatever a killed attempt has left."""
    shutil.rmtree(Path(str(settings.output)), ignore_errors=True)
    Diagnose(settings=settings).run()


def train_from(config: RunConfig, base: Path) -> None:
    """Train, or go on, from the evaluation of the untrained model in the file `base`."""
    from expo_lite.loop import train
    from expo_lite.memory.limits import fitted
    from expo_lite.memory.shapes import cached_commit
    from expo_lite.policy.device import describe, find_device

    folder = RunFolder(config.output)
    if not folder.config_file.exists():
        shutil.rmtree(folder.path, ignore_errors=True)  # a killed attempt
        settings, _ = fitted(config)  # as the loop will ask for it
        commit = cached_commit(config.model, config.policy.revision)  # of the base evaluation
        settings = replace(settings, policy=replace(settings.policy, revision=commit))
        folder.create(settings, device=describe(find_device()), start=starting_adapter(config))
    if not folder.evaluation_file(0).exists():
        write_atomically(folder.evaluation_file(0), base.read_text(encoding="utf-8"))
    train(config, console=Terminal())
