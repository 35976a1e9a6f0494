"""What `plan` prints: the memory of a run by part and phase, the settings that fit, and which models fit where."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich import box
from rich.console import Console
from rich.table import Table

from expo_lite.commands.command import ConfiguredCommand, Inline
from expo_lite.errors import ConfigError
from expo_lite.memory.parts import GIB, Kind, Workload
from expo_lite.memory.plan import MemoryPlan, longest_completion, plan_for, ram_bytes
from expo_lite.memory.shapes import find_shape
from expo_lite.settings.machine import ask_driver, default_model, has_gpu
from expo_lite.settings.models import PRESETS, find_model
from expo_lite.settings.plan import PlanConfig, of_train_file
from expo_lite.settings.schema import check_values
from expo_lite.terminal import Terminal, say

ALL = "all"
"""The model name that stands for every alias."""


@dataclass(frozen=True, kw_only=True)
class Plan(ConfiguredCommand):
    """Say what a training run will hold in memory, before anything is loaded, and which settings fit."""

    settings: Annotated[PlanConfig, Inline]

    @classmethod
    def before_flags(cls, words: Sequence[str], file: Path | None) -> dict[str, Any]:
        """The file's; of one for train, what plan knows of it."""
        return of_train_file(super().before_flags(words, file), str(file))

    def run(self) -> None:
        """Plan, and print it as asked.

        Raises:
            ConfigError: a setting is out of bounds, the model is unknown, or the GPU cannot be asked for its memory.
            ModelError: the model's sizes are not known here.
        """
        config = self.settings
        check_values(config)
        console = Terminal()
        model = config.model or default_model()
        kind, sizes_gib = machine(config.vram)
        models = list(PRESETS) if model == ALL else [model]
        answers = [planned_model(name, gib, kind, config) for name in models for gib in sizes_gib]
        if config.json:
            found = [to_json(each) for each in answers]
            console.print_json(json.dumps(found[0] if len(found) == 1 else found), indent=2)
        elif len(answers) > 1 or config.largest:
            print_overview(console, answers, config)
        else:
            print_plan(console, answers[0])


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """The plan of one model on one machine, and the longest completions that would fit there."""

    model: str
    memory_gib: float
    plan: MemoryPlan
    longest: int

    def settings(self) -> dict[str, int | str]:
        """What `train` would choose or take."""
        workload = self.plan.workload
        return {
            "micro_batch_tokens": self.plan.micro_batch_tokens,
            "sampling_rows": self.plan.sampling_rows,
            "group_size": workload.group_size,
            "max_completion_tokens": workload.completion_tokens,
            "sampler": workload.sampler,
        }


def machine(vram: Sequence[float]) -> tuple[Kind, list[float]]:
    """GPUs of the sizes asked for, in GiB; else this machine's GPU, else its main memory."""
    if vram:
        return "gpu", list(vram)
    if has_gpu():
        return "gpu", [gpu_gib()]
    return "cpu", [ram_bytes() / GIB]


def gpu_gib() -> float:
    """The memory of the first GPU, asked of its driver's own tool: torch is slow to import."""
    mebibytes = ask_driver("memory.total")
    if mebibytes is None or not mebibytes.isdigit():
        raise ConfigError("The GPU's memory cannot be read with nvidia-smi. Give it in GiB, as --vram 24.")
    return int(mebibytes) / 1024


def planned_model(model: str, memory_gib: float, kind: Kind, config: PlanConfig) -> PlannedModel:
    """The plan of one model on one machine."""
    shape = find_shape(model)
    workload = Workload(
        kind=kind,
        bits=config.bits,
        lora_rank=config.lora_rank,
        optimizer=config.optimizer,
        group_size=config.group_size,
        prompt_tokens=config.prompt_tokens,
        completion_tokens=config.max_completion_tokens or find_model(model).max_completion_tokens,
        diagnosed=True,  # as a run is by default
    )
    total = memory_gib * GIB
    plan = plan_for(
        shape,
        workload,
        total,
        config.sampler,
        micro_batch_tokens=config.micro_batch_tokens,
        sampling_rows=config.sampling_rows,
    )
    return PlannedModel(model, memory_gib, plan, longest_completion(shape, plan.workload, total))


def size_in_words(n_parameters: int) -> str:
    """'3.09B', and '0.9M' below a billion."""
    return f"{n_parameters / 1e9:.2f}B" if n_parameters >= 1e9 else f"{n_parameters / 1e6:.1f}M"


def to_json(each: PlannedModel) -> dict[str, object]:
    """One model's plan as plain JSON values, memory in GiB."""
    plan = each.plan
    return {
        "model": each.model,
        "parameters": plan.shape.n_parameters,
        "memory_gib": each.memory_gib,
        "fits": plan.fits,
        "peak_gib": plan.peak / GIB,
        "reserve_gib": plan.reserve / GIB,
        "settings": each.settings(),
        "longest_completion_tokens": each.longest,
        "workload": dataclasses.asdict(plan.workload),
        "phases": {
            phase.name: {"peak_gib": phase.peak / GIB, "parts_gib": {p: size / GIB for p, size in phase.parts.items()}}
            for phase in plan.phases
        },
    }


def print_plan(console: Console, each: PlannedModel) -> None:
    """One plan: parts by phases, and the settings."""
    plan, workload = each.plan, each.plan.workload
    where = "GPU" if workload.kind == "gpu" else "main memory, without a GPU"
    title = (
        f"{each.model} ({size_in_words(plan.shape.n_parameters)} parameters) in {each.memory_gib:.4g} GiB of {where}"
    )
    say(console, title)
    table = Table(box=box.SIMPLE)
    table.add_column("GiB", no_wrap=True)
    for phase in plan.phases:
        table.add_column(phase.name, justify="right", no_wrap=True)
    parts = list(dict.fromkeys(part for phase in plan.phases for part in phase.parts))
    for part in parts:
        cells = [phase.parts.get(part) for phase in plan.phases]
        table.add_row(
            part, *("" if size is None else f"{size / GIB:.3f}" for size in cells), end_section=part == parts[-1]
        )
    table.add_row("peak", *(f"{phase.peak / GIB:.3f}" for phase in plan.phases))
    console.print(table)
    for line in closing_lines(each):
        say(console, line)


def closing_lines(each: PlannedModel) -> list[str]:
    """The verdict and the settings, in words."""
    plan, workload = each.plan, each.plan.workload
    settings = ", ".join(f"{name} {value}" for name, value in each.settings().items())
    lines = [f"It {'fits' if plan.fits else 'does not fit'}: it needs {plan.describe()}."]
    if plan.fits:
        lines.append(f"train would take: {settings}.")
    lines.append(
        f"Groups may be of any size: {plan.sampling_rows} completions are decoded at a time, and learned from in "
        f"micro-batches; {workload.prompt_tokens} tokens are allowed for the longest prompt (--prompt-tokens)."
    )
    if workload.sampler == "native":
        lines.append(
            "Sampler native: our own decoder, which is faster, needs a dense copy of the weights, beside which too few "
            "rows fit."
        )
    if each.longest:
        lines.append(
            f"The longest completion that fits, a group of {workload.group_size} sampled at once: {each.longest} "
            "tokens."
        )
    else:
        lines.append("No completion fits, however short.")
    return lines


def print_overview(console: Console, answers: Sequence[PlannedModel], config: PlanConfig) -> None:
    """Models by memory sizes: the settings chosen and the longest completion that fits."""
    sizes = list(dict.fromkeys(each.memory_gib for each in answers))
    table = Table(box=box.MARKDOWN if config.markdown else box.SIMPLE)
    for column in ("model", "parameters"):
        table.add_column(column, no_wrap=True)
    for gib in sizes:
        table.add_column(f"{gib:.4g} GiB", justify="right", no_wrap=True)
    for model in dict.fromkeys(each.model for each in answers):
        row = [each for each in answers if each.model == model]
        cells = [cell(each, longest_only=config.largest) for each in row]
        table.add_row(model, f"{row[0].plan.shape.n_parameters / 1e6:,.1f}M", *cells)
    console.print(table)
    what = "longest completion in tokens"
    if not config.largest:
        what = f"micro_batch_tokens / sampling_rows / {what}; '-': does not fit"
    text = (
        f"{what} (a group of {config.group_size}, prompts of up to {config.prompt_tokens} tokens, {config.bits} bits)"
    )
    say(console, text)


def cell(each: PlannedModel, *, longest_only: bool) -> str:
    """One model on one machine, in short."""
    if longest_only:
        return f"{each.longest}" if each.longest else "-"
    plan = each.plan
    return f"{plan.micro_batch_tokens} / {plan.sampling_rows} / {each.longest}" if plan.fits else "-"
