"""The part that commands share: their flags, and how they find a model, its prompts and its problems."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console, RenderableType

from expo_lite.errors import ConfigError
from expo_lite.prompts import read_prompts
from expo_lite.records import Problem, Prompts
from expo_lite.run.progress import working
from expo_lite.run.target import Target, find_target
from expo_lite.settings.machine import default_model, importing
from expo_lite.settings.measuring import DiagnoseConfig, LoadingConfig, MeasuringConfig
from expo_lite.settings.models import prompt_file
from expo_lite.settings.schema import toml_values
from expo_lite.tasks import Task, problems_of
from expo_lite.tasks.base import say_read
from expo_lite.terminal import BOLD, Terminal, latex, markdown, say, warning

Inline = tyro.conf.arg(name="")
"""Show the fields of the settings beside the command's own."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A verb of the command line, with its flags as fields."""

    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the traceback of an error."""

    def run(self) -> None:
        """Carry the command out; raises ExpoLiteError for every failure that can be foreseen."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Printing(Command):
    """A command that prints tables, or the same for other programs; messages then go to stderr."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print figures as JSON."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print tables as Markdown."""
    latex: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print tables as LaTeX."""

    def messages(self) -> Terminal:
        """Return the console for all but the figures; raises ConfigError if two forms are asked for."""
        if self.json + self.markdown + self.latex > 1:
            raise ConfigError("The figures are printed in one form. Give one of --json, --markdown and --latex.")
        return Terminal(stderr=self.json or self.markdown or self.latex)

    def show(self, parts: Iterable[RenderableType], values: Any) -> None:
        """Print tables and lines in the form that is asked for; `values` are the same for JSON."""
        console = Terminal()
        if self.json:
            console.print_json(json.dumps(values), indent=2)
            return
        for part in parts:
            if self.markdown or self.latex:
                console.print((markdown if self.markdown else latex)(part), soft_wrap=True)
            elif isinstance(part, str):
                say(console, part if console.color_system else part.replace(BOLD, ""))
            else:
                console.print(part)


@dataclass(frozen=True, kw_only=True)
class ConfiguredCommand(Command):
    """A command whose settings can come from a file."""

    config: Path | None = None
    """Read settings from this TOML file; flags override it."""

    @classmethod
    def before_flags(cls, words: Sequence[str], file: Path | None) -> dict[str, Any]:
        """Return the settings that flags override, as nested tables: those of the file."""
        return toml_values(file) if file else {}


def target_of(settings: LoadingConfig, name: str | None) -> Target:
    """Find the run or model that a command loads; raises what `find_target` does."""
    names = ("bits", "revision", "trust_remote_code", "backend", "sampler", "thinking", "chat_template")
    return find_target(name or default_model(), **{each: getattr(settings, each, None) for each in names})


def prompts_of(settings: MeasuringConfig, target: Target) -> Prompts:
    """Read the prompts that are given, else the run's own; raises ConfigError if one cannot be used."""
    explanation = settings.explanation_prompt if isinstance(settings, DiagnoseConfig) else None
    given, own = read_prompts(settings.question_prompt, prompt_file(explanation)), target.prompts
    return Prompts(given.question or own.question, given.explanation or own.explanation)


def measured_problems(
    task: Task, settings: MeasuringConfig, split: Literal["train", "test"], prompts: Prompts, console: Console
) -> list[Problem]:
    """Read the problems that the settings ask for, and say what was read; raises what `Task.problems` does."""
    say_read(task, console)
    levels, limit = settings.levels, settings.problems
    return problems_of(task, split, levels=levels, limit=limit, seed=0, warn=warning(console), prompts=prompts)


def import_torch(console: Console) -> None:
    """Import torch, which takes seconds, and say so. Leave transformers: Unsloth may have to come before it."""
    with working(console, "starting"), importing("torch"):
        import torch  # noqa: F401


def say_device(console: Console, target: Target) -> None:
    """Print the device that will compute, and whether the target's base is as in training.

    Raises:
        ConfigError: there is a GPU that cannot be used.
    """
    from expo_lite.policy.device import describe, find_device

    say(console, f"device: {describe(find_device())}")
    if target.other_bits:
        warning(console)(target.other_bits)
