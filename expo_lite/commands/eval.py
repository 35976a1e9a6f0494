"""`expo-lite eval`: a run or a model measured on a task, alone or against another."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from expo_lite.commands.command import ConfiguredCommand, Inline, measured_problems, prompts_of, target_of
from expo_lite.commands.sampling import import_torch
from expo_lite.grading import Grader
from expo_lite.run.target import Target, params_of
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.measuring import EvalConfig, check_measuring
from expo_lite.settings.schema import to_json
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal, say, warning

RESULTS = "evaluation.json"
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Eval(ConfiguredCommand):
    """Measure a run or a model: greedy accuracy, avg@n, pass@k and maj@k, by level and subject."""

    settings: Annotated[EvalConfig, Inline]

    def run(self) -> None:
        """Measure a run or a model, and its difference to a baseline if one is given; write the figures and print them.

        Raises:
            ExpoLiteError: whatever can be foreseen to go wrong; the output folder can be resumed.
        """
        config = self.settings
        check_measuring(config)
        console = Terminal()
        target = target_of(config, config.target)
        other = target_of(config, config.baseline) if config.baseline else None
        config, prompts = settled(config, target), prompts_of(config, target)
        output = output_folder(config, target)
        if other is not None and other.run is not None and other.prompts.question != prompts.question:
            warning(console)(f"'{config.baseline}' was trained on another question prompt; both are asked alike here")
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(str(config.task), grader=grader, options=config.data, levels=config.levels)
            problems = measured_problems(task, config, prompts, console)
            import_torch(console)
            from expo_lite.commands.sampling import graded_target, sampled_problems
            from expo_lite.measure.samples import SampleFolder, SampleSpec
            from expo_lite.results.figures import evaluation_of
            from expo_lite.results.paired import pair
            from expo_lite.results.tables import evaluation_tables, pairing_tables

            params = params_of(config, target)
            both = [target, *([other] if other else [])]
            problems = sampled_problems(both, problems, params.max_completion_tokens, console)
            spec = SampleSpec(tuple(problems), config.samples, params, config.seed)
            measured = [(output, target), *([(output / BASELINE, other)] if other else [])]
            folders = [SampleFolder(path, sample_settings(config, each, spec.settings())) for path, each in measured]
            for folder in folders:
                folder.check(resume=config.resume)
            graded = [
                graded_target(each, spec, task, folder, console)
                for folder, (_, each) in zip(folders, measured, strict=True)
            ]
        evaluations = [evaluation_of(each, config.ks, config.temperature) for each in graded]
        pairing = None
        if other:
            ours, theirs = (evaluation.problems for evaluation in evaluations)
            pairing = pair(f"{target.label} minus {other.label}", theirs, ours)
        results = {
            "settings": to_json(config),
            "evaluation": evaluations[0].to_json(),
            "baseline": evaluations[1].to_json() if other else None,
            "differences": [asdict(level) for level in pairing.levels] if pairing else [],
        }
        folders[0].write(RESULTS, [json.dumps(results, indent=2)])
        for (_, each), evaluation in reversed(list(zip(measured, evaluations, strict=True))):
            console.print(*evaluation_tables(evaluation, name=each.label))
        if pairing:
            console.print(*pairing_tables(pairing))
        say(console, f"written to: {output}")
        if other is None and target.adapter is not None:
            say(
                console,
                f"against its base, problem by problem: expo-lite eval {config.target} --baseline {target.model}",
            )


def settled(config: EvalConfig, target: Target) -> EvalConfig:
    """Fill in what the run's own settings or the model decide."""
    run = target.config
    own_task = run is not None and config.task in (None, run.task)
    return replace(
        config,
        task=config.task or (run.task if run else "hidden-rules"),
        levels=config.levels or (run.levels if run and own_task else ()),
        data=run.data if run and own_task and config.data == TaskOptions() else config.data,
        max_completion_tokens=config.max_completion_tokens or target.max_completion_tokens,
        bits=target.policy.bits,
        k=config.ks,
    )


def output_folder(config: EvalConfig, target: Target) -> Path:
    """Where the results go: as given, else in the run's folder, else under runs/."""
    if config.output:
        return config.output
    name = f"{str(config.task).partition(':')[0]}-{config.split}-seed{config.seed}"
    if target.run and target.adapter:
        return target.run / "evaluation" / f"{target.adapter.name}-{name}"
    return Path("runs") / f"eval-{target.label}-{name}"


def sample_settings(config: EvalConfig, target: Target, samples: dict[str, Any]) -> dict[str, Any]:
    """What the samples depend on; k is not among it, so that other k can be had of the same samples."""
    return {**target.identity(), "task": config.task, "split": config.split, **samples}
