"""What the commands have in common: their flags, how a model is found, and how progress and results are printed."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from expo_lite.prompts import read_prompts
from expo_lite.records import Level, Problem, Prompts
from expo_lite.run.target import Target, find_target
from expo_lite.settings.machine import default_model
from expo_lite.settings.measuring import ExplainingConfig, MeasuringConfig
from expo_lite.settings.schema import flat, to_json, toml_values
from expo_lite.tasks import Task, problems_of
from expo_lite.terminal import warning

Inline = tyro.conf.arg(name="")
"""The settings' fields stand beside the command's own."""
NOT_REPEATED = ("model", "task", "problems", "output", "resume")
"""Settings that a command does not hand on to the one that it suggests; model and task stand first."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command takes."""

    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the traceback of an error."""

    def run(self) -> None:
        """Do it; raises ExpoLiteError for whatever can be foreseen to go wrong."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ConfiguredCommand(Command):
    """What every command with settings takes."""

    config: Path | None = None
    """Read settings from this TOML file; flags override it."""

    @classmethod
    def before_flags(cls, words: Sequence[str], file: Path | None) -> dict[str, Any]:
        """The settings that are there before the command line's flags, as nested tables: those of the file."""
        return toml_values(file) if file else {}


def target_of(settings: MeasuringConfig, name: str | None) -> Target:
    """The run or model that a measuring command is about; raises what `find_target` does."""
    return find_target(
        name or default_model(),
        base_model=settings.base_model,
        bits=settings.bits,
        backend=settings.backend,
        sampler=settings.sampler,
    )


def prompts_of(settings: MeasuringConfig, target: Target) -> Prompts:
    """The prompts that are given, else the run's own; raises ConfigError where one cannot be used."""
    explanation = settings.explanation_prompt if isinstance(settings, ExplainingConfig) else None
    given, own = read_prompts(settings.question_prompt, explanation), target.prompts
    return Prompts(given.question or own.question, given.explanation or own.explanation)


def measured_problems(
    task: Task,
    settings: MeasuringConfig,
    prompts: Prompts,
    console: Console,
    *,
    levels: tuple[Level, ...] | None = None,
    seed: int = 0,
) -> list[Problem]:
    """The problems that the settings ask for, by default of their own levels; raises what `Task.problems` does."""
    return problems_of(
        task,
        settings.split,
        levels=settings.levels if levels is None else levels,
        limit=settings.problems,
        seed=seed,
        warn=warning(console),
        prompts=prompts,
    )


def suggested(verb: str, usual: Any, given: ExplainingConfig, model: str) -> str:
    """The command line of another command on the same model and task, with all that was given and that it has too.

    `usual` has the other command's settings at their defaults.
    """
    words = ["expo-lite", verb, "--model", model, "--task", given.task]
    known = {key.rpartition(".")[2] for key, _ in flat(to_json(usual))} - {*NOT_REPEATED}
    own = dict(flat(to_json(type(given)())))
    for key, value in flat(to_json(given)):
        name = key.rpartition(".")[2]
        if name in known and value != own[key]:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
