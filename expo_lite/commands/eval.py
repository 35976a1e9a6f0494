"""`expo-lite eval`: measure a run or a model on a task, alone or against another."""

import gc
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console, RenderableType

from expo_lite.commands import command
from expo_lite.errors import CheckpointError
from expo_lite.grading import Grader
from expo_lite.memory.shapes import cached_commit, context_of
from expo_lite.records import Problem
from expo_lite.results.figures import GradedProblem, evaluation_of
from expo_lite.results.paired import pair
from expo_lite.results.tables import evaluation_tables, pairing_tables
from expo_lite.run.folder import JsonLines, locked, make_folder, write_json
from expo_lite.run.progress import CompletionBar, working
from expo_lite.run.target import Target, params_of
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.machine import importing
from expo_lite.settings.measuring import EvalConfig, check_measuring
from expo_lite.settings.schema import to_json
from expo_lite.settings.train import task_label
from expo_lite.tasks import Task, load_task
from expo_lite.tasks.base import FixedTask
from expo_lite.terminal import command as command_line
from expo_lite.terminal import counted, say, warning

if TYPE_CHECKING:
    from expo_lite.measure.samples import SampleFolder, SampleSpec
    from expo_lite.policy.base import Policy

RESULTS = "evaluation.json"
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Eval(command.Printing, command.ConfiguredCommand):
    """Measure a run or a model: greedy accuracy, avg@n, pass@k and maj@k, by level and subject.

    Example: expo-lite eval runs/first --baseline qwen2.5-3b --samples 16
    """

    settings: Annotated[EvalConfig, command.Inline]

    def run(self) -> None:
        """Sample and grade the problems, then write and print the figures.

        Raises:
            ExpoLiteError: anything that can be foreseen to go wrong; the output folder can be resumed.
        """
        config = self.settings
        check_measuring(config)
        console = self.messages()
        targets = [command.target_of(config, name) for name in (config.target, config.baseline) if name is not None]
        target = targets[0]
        targets[1:] = [asked_alike(each, target) for each in targets[1:]]
        config, prompts = settled(config, target), command.prompts_of(config, target)
        context_of(target.model, params_of(config, target).max_completion_tokens, target.policy.revision)
        output = output_folder(config, target)
        if any(each.run and each.prompts.question != prompts.question for each in targets[1:]):
            warning(console)(f"'{config.baseline}' was trained on another question prompt; both are asked alike here")
        check_unsolved_file(config)
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(str(config.task), grader=grader, options=config.data, levels=config.levels)
            problems = command.measured_problems(task, config, config.split or "test", prompts, console)
            command.import_torch(console)
            from expo_lite.measure.samples import SampleFolder, SampleSpec

            params = params_of(config, target)
            problems = fitting_all(targets, problems, params.max_completion_tokens, console)
            # a hub model stays at the commit of its tokenizer, also when the evaluation is resumed
            commits = [cached_commit(each.model, each.policy.revision) for each in targets]
            targets = [replace(t, policy=replace(t.policy, revision=c)) for t, c in zip(targets, commits, strict=True)]
            spec = SampleSpec(tuple(problems), config.samples, params, config.seed)
            about = {"task": config.task, "split": config.split, "rounding": config.data.rounding, **spec.settings()}
            folders = [
                SampleFolder(path, each.identity() | about)
                for path, each in zip((output, output / BASELINE), targets, strict=False)
            ]
            for folder in folders:
                folder.check(resume=config.resume)
            graded = [graded_target(*each, spec, task, console) for each in zip(targets, folders, strict=True)]
        self.show(*results_of(graded, config, targets, folders[0]))
        say(console, f"written to: {output}")
        if config.write_unsolved:
            write_unsolved(config.write_unsolved, graded[0], config, task, console)


def results_of(
    graded: list[list[GradedProblem]], config: EvalConfig, targets: list[Target], folder: "SampleFolder"
) -> tuple[list[RenderableType], dict[str, Any]]:
    """Write the figures of the target, and of the baseline if there is one; return them as tables and JSON values."""
    evaluations = [evaluation_of(each, config.temperature) for each in graded]
    pairing = None
    if config.baseline:
        ours, theirs = (evaluation.problems for evaluation in evaluations)
        pairing = pair(f"{targets[0].label} minus {targets[1].label}", theirs, ours)
    results = {
        "settings": to_json(config),
        "evaluation": evaluations[0].to_json(),
        "baseline": evaluations[1].to_json() if config.baseline else None,
        "differences": [asdict(level) for level in pairing.levels] if pairing else [],
    }
    write_json(folder.path / RESULTS, results)
    tables: list[RenderableType] = []
    for target, evaluation in reversed(list(zip(targets, evaluations, strict=True))):
        tables += evaluation_tables(evaluation, name=target.label)
    return [*tables, *(pairing_tables(pairing) if pairing else [])], results


def settled(config: EvalConfig, target: Target) -> EvalConfig:
    """Fill in what the run's own settings or the model decide."""
    run = target.config
    own_task = run is not None and config.task in (None, run.task)
    return replace(
        config,
        task=config.task or (run.task if run else "hidden-rules"),
        split=config.split or ("train" if config.write_unsolved else "test"),
        levels=config.levels or (run.levels if run and own_task else ()),
        data=run.data if run and own_task and config.data == TaskOptions() else config.data,
        max_completion_tokens=config.max_completion_tokens or target.max_completion_tokens,
        bits=target.policy.bits,
    )


def asked_alike(baseline: Target, target: Target) -> Target:
    """Return the baseline; by the target's chat template and thinking if it is the target's own base model."""
    if baseline.adapter is not None or baseline.model != target.model:
        return baseline
    own = target.policy
    return replace(baseline, policy=replace(baseline.policy, chat_template=own.chat_template, thinking=own.thinking))


def output_folder(config: EvalConfig, target: Target) -> Path:
    """Return the folder for the results: as given, else in the run's folder, else under runs/."""
    if config.output:
        return config.output
    name = f"{task_label(str(config.task))}-{config.split}-seed{config.seed}"
    if target.run and target.adapter:
        return target.run / "evaluation" / f"{target.adapter.name}-{name}"
    return Path("runs") / f"eval-{target.label}-{name}"


def fitting_all(
    targets: list[Target], problems: list[Problem], max_completion_tokens: int, console: Console
) -> list[Problem]:
    """Return the problems that fit into the context of every target; loads tokenizers only."""
    with working(console, "reading the tokenizer"), importing("transformers"):
        from expo_lite.memory.limits import fitting
        from expo_lite.policy.load import load_tokenizer

    for target in targets:
        tokenizer, commit = partial(load_tokenizer, target.model, target.policy), target.policy.revision
        problems = fitting(
            problems, target.model, max_completion_tokens, revision=commit, tokenizer=tokenizer, warn=warning(console)
        )
    return problems


def graded_target(
    target: Target, folder: "SampleFolder", spec: "SampleSpec", task: Task, console: Console
) -> list[GradedProblem]:
    """Sample and grade the completions that the folder lacks; load the policy only if it lacks any."""
    import torch

    from expo_lite.measure.samples import graded_problems
    from expo_lite.memory.limits import fitted_policy
    from expo_lite.policy.factory import load_policy

    completions, problems = counted(spec.n_completions, "completion"), counted(len(spec.problems), "problem")
    say(console, f"{target.label}: {completions} of {problems}")
    command.say_device(console, target)
    settings, limits = fitted_policy(target.model, target.policy, spec.params, warning(console))
    with CompletionBar(console, "completions", spec.n_completions) as bar:

        @cache
        def policy() -> "Policy":
            loaded = load_policy(target.model, settings, seed=0, adapter=target.adapter)
            loaded.on_ended = bar.ended
            return loaded

        if not folder.path.exists():
            policy()  # a model that cannot be loaded leaves no folder
            make_folder(folder.path)
        with locked(folder.path):
            graded = graded_problems(spec, task, policy, limits=limits, folder=folder, advance=bar)
    policy.cache_clear()
    gc.collect()  # a second policy needs the room
    torch.cuda.empty_cache()  # does nothing where CUDA has not started
    return graded


def check_unsolved_file(config: EvalConfig) -> None:
    """Make room for the file of unsolved problems before hours of sampling.

    Raises:
        CheckpointError: the file exists, and the command does not resume.
    """
    file = config.write_unsolved
    if file is None:
        return
    if file.is_dir() or (file.exists() and not config.resume):
        raise CheckpointError(f"'{file}' exists already. Choose another --write-unsolved, or remove it.")
    file.parent.mkdir(parents=True, exist_ok=True)


def write_unsolved(file: Path, graded: list[GradedProblem], config: EvalConfig, task: Task, console: Console) -> None:
    """Write the problems without a right completion as rows that `--task jsonl:FILE` reads."""
    unsolved = [each.problem for each in graded if not each.n_correct and not each.greedy.correct]
    rows = [{name: value for name, value in asdict(problem).items() if name != "prompts"} for problem in unsolved]
    JsonLines(file).replace(rows)
    tries = config.samples + 1
    say(console, f"{len(unsolved):,} of {len(graded):,} problems were never solved in {tries} tries: {file}")
    if unsolved and len(unsolved) == len(graded):
        line = "not one was solved: see in the samples that replies and answers can be compared, before you train"
        warning(console)(f"{line}. The first answer is {unsolved[0].answer!r}.")
    if unsolved and type(task) is not FixedTask:
        line = f"judges replies itself, and --task jsonl:{file} compares answers: train on it only if that is as good"
        warning(console)(f"task '{config.task}' {line}")
    elif unsolved:
        words = ["train", "--model", config.target, "--task", f"jsonl:{file}"]
        words += ["--rounding", config.data.rounding] if config.data.rounding != TaskOptions().rounding else []
        words += ["--question-prompt", str(config.question_prompt)] if config.question_prompt else []
        say(console, f"train on them: {command_line(*words)}")
