"""`expo-lite plan`: predict the memory of a run by part and phase, and the settings that fit."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from rich import box
from rich.console import Console

from expo_lite.commands.command import ConfiguredCommand, Inline
from expo_lite.errors import ConfigError, ModelError
from expo_lite.memory import hours
from expo_lite.memory.machine import ram_bytes
from expo_lite.memory.plan import GIB, Kind, MemoryPlan, Workload, longest_completion, plan_for
from expo_lite.memory.shapes import cached_commit, find_shape
from expo_lite.settings.machine import ask_driver, default_model, has_gpu, takes_unsloth
from expo_lite.settings.models import PRESETS, find_model
from expo_lite.settings.plans import PlanConfig, of_train_file
from expo_lite.settings.schema import typed
from expo_lite.terminal import Terminal, new_table, say, warning

PROBLEMS, EVALUATED = 8, 3_400
"""Problems of a step, and completions of an evaluation of 40 problems at each of five levels, as train takes them."""
CHECKPOINTS = 3
"""Checkpoints on the disk, with one that is being written; each has the adapter and two moments of its size."""
ASSUMED = (
    f"{hours.BANDWIDTH_SHARE:.0%} of the bandwidth and {hours.OPERATIONS_SHARE:.0%} of the operations in its data "
    "sheet, prompts and completions half as long as they may be, an explanation of every problem"
)
USUAL_CARD = "4090"
ENVIRONMENT_GB = 6
IN_USE_MIB = 200
"""More than a driver takes for itself."""
SMALLER: dict[str, tuple[str, Any]] = {
    "a smaller --max-completion-tokens": ("max_completion_tokens", 64),
    "--sampler native": ("sampler", "native"),
    "fewer --sampling-rows": ("sampling_rows", None),
    "fewer --micro-batch-tokens": ("micro_batch_tokens", None),
}
"""Remedies where a run does not fit, and the setting with which each is tried."""
ALL = "all"
"""The model name that stands for every alias."""


@dataclass(frozen=True, kw_only=True)
class Plan(ConfiguredCommand):
    """Say what a training run will hold in memory, before anything is loaded, and which settings fit.

    Example: expo-lite plan --model qwen2.5-3b --card 4090
    """

    settings: Annotated[PlanConfig, Inline]

    @classmethod
    def before_flags(cls, words: Sequence[str], file: Path | None) -> dict[str, Any]:
        """Return the file's settings; of a file for `train` those that `plan` has too."""
        return of_train_file(super().before_flags(words, file), str(file))

    def run(self) -> None:
        """Print the plan of one model, or a table of several.

        Raises:
            ConfigError: a setting is out of bounds, the model or card is unknown, or the GPU does not say its memory.
            ModelError: the model's sizes are not known here, or no plan fits; what there is to say has been printed.
        """
        config = self.settings
        typed(config)
        console = Terminal()
        kind, sizes_gib = machine(config.vram or ((hours.find_card(config.card).memory_gib,) if config.card else ()))
        models = list(PRESETS) if config.model == ALL else [config.model or default_model()]
        answers = [planned_model(name, gib, kind, config) for name in models for gib in sizes_gib]
        if config.json:
            plans = [to_json(each) for each in answers]
            console.print_json(json.dumps(plans[0] if len(plans) == 1 else plans), indent=2)
        elif len(answers) > 1:
            print_overview(console, answers, config)
        else:
            print_plan(console, answers[0])
        if kind == "gpu" and not (config.vram or config.card):
            warn_of_use(console, answers[0].memory_gib)
        if not any(each.plan.fits for each in answers):
            raise ModelError(f"It does not fit: it needs {answers[0].plan.describe()}. {remedies(answers[0], config)}")


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """The plan of one model on one machine, and the longest completions that would fit there."""

    model: str
    memory_gib: float
    plan: MemoryPlan
    longest: int
    card: hours.Card
    commit: str | None
    """The commit of a hub model, as it is in the cache."""

    @property
    def parameters(self) -> str:
        """The number of parameters in millions: '3,085.9M'."""
        return f"{self.plan.shape.n_parameters / 1e6:,.1f}M"

    @property
    def short(self) -> str:
        """The plan in short; '-' if it does not fit."""
        plan = self.plan
        return f"{plan.micro_batch_tokens} / {plan.sampling_rows} / {self.longest}" if plan.fits else "-"

    @property
    def cost(self) -> dict[str, float]:
        """The cost of a run beside memory, in GB and hours; {} for a local model, without a GPU, and if nothing fits.

        Seconds are those of a step, of one more pass over its rows (scoring), and of both evaluations. Prompts are half
        as long as they may be, and completions likewise on average.
        """
        shape, work, preset = self.plan.shape, self.plan.workload, find_model(self.model)
        if work.kind == "cpu" or not self.plan.fits or Path(preset.source).exists():
            return {}
        adapter, download = 4 * shape.n_adapter_weights(work.lora_rank), 2 * shape.n_parameters / 1e9
        rows = (PROBLEMS * work.group_size, PROBLEMS, PROBLEMS * (work.group_size + 1), EVALUATED)
        groups, explanations, learned, evaluated = (
            hours.Samples(n, work.prompt_tokens / 2, work.completion_tokens / 2, work.completion_tokens) for n in rows
        )
        sampling = sum(hours.sampling_s(self.plan, samples, self.card) for samples in (groups, explanations))
        scoring = hours.scoring_s(self.plan, learned, self.card)
        update = hours.update_s(self.plan, learned, self.card)
        evaluating = 2 * hours.sampling_s(self.plan, evaluated, self.card)
        return {
            "download_gb": download,
            "disk_gb": download + CHECKPOINTS * 3 * adapter / 1e9,
            "hours": (preset.steps * (sampling + update) + evaluating) / 3600,
            "steps": preset.steps,
            "sampling_s": sampling,
            "scoring_s": scoring,
            "update_s": update,
            "evaluations_s": evaluating,
        }

    @property
    def settings(self) -> dict[str, int | str]:
        """The settings that `train` would choose or take."""
        workload = self.plan.workload
        return {
            "micro_batch_tokens": self.plan.micro_batch_tokens,
            "update_keeps": self.plan.keeps,
            "sampling_rows": self.plan.sampling_rows,
            "group_size": workload.group_size,
            "max_completion_tokens": workload.completion_tokens,
            "sampler": workload.sampler,
        }


def machine(vram: Sequence[float]) -> tuple[Kind, list[float]]:
    """Return GPUs of the given sizes in GiB, else this machine's GPU, else its main memory."""
    if vram:
        return "gpu", list(vram)
    if not has_gpu():
        return "cpu", [ram_bytes() / GIB]
    mebibytes = next(iter(ask_driver("memory.total")), None)  # torch knows too, but is slow to import
    if mebibytes is None or not mebibytes.isdigit():
        raise ConfigError("The GPU's memory cannot be read with nvidia-smi. Give it in GiB, as --vram 24.")
    return "gpu", [int(mebibytes) / 1024]


def warn_of_use(console: Console, card_gib: float) -> None:
    """Warn if this machine's card has less room than it has memory."""
    used = next(iter(ask_driver("memory.used")), "")
    if used.isdigit() and int(used) > IN_USE_MIB:
        what = f"{int(used) / 1024:.1f} GiB of the card are in use, by the desktop or other programs"
        warning(console)(f"{what}. train counts what is free: --vram {card_gib - int(used) / 1024:.1f} plans with it.")


def planned_model(model: str, memory_gib: float, kind: Kind, config: PlanConfig) -> PlannedModel:
    """Plan one model on one machine."""
    shape, commit = find_shape(model, config.revision), cached_commit(model, config.revision)
    workload = Workload(
        kind=kind,
        bits=config.bits,
        lora_rank=config.lora_rank,
        group_size=config.group_size,
        prompt_tokens=config.prompt_tokens,
        completion_tokens=config.max_completion_tokens or find_model(model).max_completion_tokens,
        recomputes=takes_unsloth("auto"),
    )
    total = memory_gib * GIB
    asked = {"micro_batch_tokens": config.micro_batch_tokens, "sampling_rows": config.sampling_rows}
    plan = plan_for(shape, workload, total, config.sampler, **asked)
    card = hours.find_card(config.card or USUAL_CARD)
    return PlannedModel(model, memory_gib, plan, longest_completion(shape, plan.workload, total), card, commit)


def remedies(each: PlannedModel, config: PlanConfig) -> str:
    """Name what makes a run fit: a smaller model, or as few other settings as possible."""

    def fits(names: Sequence[str]) -> bool:
        smaller = replace(config, **dict(SMALLER[name] for name in names))
        return planned_model(each.model, each.memory_gib, each.plan.workload.kind, smaller).plan.fits

    found = (list(filter(fits, combinations(SMALLER, n))) for n in range(1, len(SMALLER) + 1))
    return f"Take {' or '.join(['a smaller --model', *map(' with '.join, next(filter(None, found), []))])}."


def to_json(each: PlannedModel) -> dict[str, object]:
    """Return one model's plan as JSON values, memory in GiB."""
    plan = each.plan
    return {
        "model": each.model,
        "revision": each.commit,
        "parameters": plan.shape.n_parameters,
        "memory_gib": each.memory_gib,
        "fits": plan.fits,
        "peak_gib": plan.peak / GIB,
        "reserve_gib": plan.reserve / GIB,
        "settings": each.settings,
        "longest_completion_tokens": each.longest,
        "workload": asdict(plan.workload),
        **each.cost,
        "phases": {
            phase.name: {"peak_gib": phase.peak / GIB, "parts_gib": {p: size / GIB for p, size in phase.parts.items()}}
            for phase in plan.phases
        },
    }


def print_plan(console: Console, each: PlannedModel) -> None:
    """Print one plan: parts by phases, the verdict and the settings."""
    plan, workload = each.plan, each.plan.workload
    where = "GPU" if workload.kind == "gpu" else "main memory, without a GPU"
    at = f" at commit {each.commit}" if each.commit else ""
    say(console, f"{each.model}{at} ({each.parameters} parameters) in {each.memory_gib:.4g} GiB of {where}")
    table = new_table("GiB", *(phase.name for phase in plan.phases))
    for part in dict.fromkeys(part for phase in plan.phases for part in phase.parts):
        sizes = [phase.parts.get(part) for phase in plan.phases]
        table.add_row(part, *("" if size is None else f"{size / GIB:.3f}" for size in sizes))
    table.add_section()
    table.add_row("peak", *(f"{phase.peak / GIB:.3f}" for phase in plan.phases))
    console.print(table)
    if plan.fits:
        say(console, f"It fits: it needs {plan.describe()}.")
        settings = ", ".join(f"{name} {value}" for name, value in each.settings.items())
        say(console, f"train would take: {settings}.")
    given = f"with {workload.group_size} decoded together and prompts of up to {workload.prompt_tokens} tokens"
    say(console, f"The longest completion that fits, {given}: {each.longest} tokens.")
    if cost := each.cost:
        files = f"Download: {cost['download_gb']:.1f} GB. Disk: {cost['disk_gb']:.1f} GB with the run folder, "
        say(console, f"{files}and some {ENVIRONMENT_GB} GB for torch and the other packages.")
        about = f"{cost['steps']:,} steps and both evaluations of {EVALUATED:,} completions"
        say(console, f"Time on {each.card.name}: some {cost['hours']:.1f} hours for {about}.")
        parts = f"sampling {cost['sampling_s']:.0f} s, update {cost['update_s']:.0f} s"
        say(console, f"A step: {parts}; scoring its rows once (--kl-coef, exp-dpo): {cost['scoring_s']:.0f} s more.")
        say(console, f"This is arithmetic, not measured: {ASSUMED}.")


def print_overview(console: Console, answers: Sequence[PlannedModel], config: PlanConfig) -> None:
    """Print models by memory sizes as Markdown: the settings chosen, and the longest completion that fits."""
    sizes = list(dict.fromkeys(each.memory_gib for each in answers))
    table = new_table("model", "parameters", *(f"{gib:.4g} GiB" for gib in sizes))
    table.box = box.MARKDOWN
    for i in range(0, len(answers), len(sizes)):
        row = answers[i : i + len(sizes)]
        table.add_row(row[0].model, row[0].parameters, *(each.short for each in row))
    console.print(table)
    given = f"a group of {config.group_size}, prompts of up to {config.prompt_tokens} tokens, {config.bits} bits"
    say(console, f"micro_batch_tokens / sampling_rows / longest completion in tokens; '-': does not fit ({given})")
