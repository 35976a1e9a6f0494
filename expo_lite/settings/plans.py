"""The settings of `expo-lite plan`, which foresees memory, and of `sweep` and `replicate`, which run a plan of runs."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from expo_lite.errors import ConfigError
from expo_lite.settings.machine import Sampler
from expo_lite.settings.schema import COMPLETIONS, ROWS, SEED, TOKENS, flat, from_mapping, typed
from expo_lite.settings.train import TrainConfig


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """Say what a training run will hold in memory, by part and phase, and which settings fit."""

    model: str | None = None
    """An alias, OWNER/NAME in the hub's cache, a folder, a GGUF file, or all for every alias. Default: as for train."""
    vram: tuple[Annotated[float, Interval(gt=0, le=100_000)], ...] = ()
    """The memory of the GPU in GiB; give several to compare them. Default: this machine's GPU, else its main memory."""
    card: str | None = None
    """A card by name, such as 3060, 4090 or a100: its memory unless vram is given, and the hours on it by arithmetic.
    Default: the hours of a 4090."""
    group_size: Annotated[int, COMPLETIONS] = 8
    """Completions of each problem (the paper's G)."""
    max_completion_tokens: Annotated[int | None, TOKENS] = None
    """The longest completion, in tokens. The default depends on the model."""
    prompt_tokens: Annotated[int, TOKENS] = 512
    """The longest prompt, in tokens, counting the prompts of explanations."""
    revision: str | None = None
    """The revision of a hub model. Default: the newest in the hub's cache."""
    bits: Literal[4, 16] = 4
    """Bits of the base model's weights."""
    lora_rank: Annotated[int, Interval(ge=1, le=1_024)] = 16
    """The rank of the LoRA adapter."""
    sampler: Sampler = "auto"
    """own counts a dense copy of the weights while sampling, native does not.
    auto takes own where eight completions fit beside its copy, else native."""
    micro_batch_tokens: Annotated[int | None, Interval(ge=1, le=2**24)] = None
    """Take this many tokens in a micro-batch instead of choosing."""
    sampling_rows: Annotated[int | None, ROWS] = None
    """Decode this many completions at a time instead of choosing."""
    json: bool = False
    """Print the plan as JSON."""


def of_train_file(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the settings that `plan` has from a file for `train`; return any other file as it is.

    Raises:
        ConfigError: the file is one for train, and wrong.
    """
    own, trained = ({f.name for f in fields(cls)} for cls in (PlanConfig, TrainConfig))
    if own.issuperset(values) or not trained.issuperset(values):
        return values
    from_mapping(TrainConfig, values, where)
    return {name: value for key, value in flat(values) if (name := key.rpartition(".")[2]) in own}


@dataclass(frozen=True, slots=True)
class RunsConfig:
    """The settings of every plan of runs."""

    model: str | None = None
    """The model of all runs. Default: the plan's, else tiny without a GPU and qwen2.5-3b with one."""
    task: str | None = None
    """The task of all runs. Default: the plan's, else hidden-rules."""
    quick: bool = False
    """Run the plan's quick form, if it has one."""
    seeds: tuple[Annotated[int, SEED], ...] = ()
    """The seeds to run the plan with. Default: the plan's own."""
    jobs: Annotated[int | None, Interval(ge=1, le=1_024)] = None
    """Runs that go side by side and share the cores. Default: one for each core, or one for each GPU."""
    ray: str | None = None
    """Run on a Ray cluster instead: its address, auto for the one this machine belongs to, local for a new one here.
    The output folder must be on a disk that all its machines share."""
    output: Path | None = None
    """Folder for run folders and results. Default: runs/PLAN-MODEL-TASK."""
    resume: bool = False
    """Go on with what the output folder already has; what is finished is not run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig(RunsConfig):
    """Carry out a plan of training runs, and compare them over seeds."""

    plan: Path
    """A TOML file, or the name of a plan that comes with the package."""


@dataclass(frozen=True, slots=True)
class ReplicateConfig(RunsConfig):
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    plan: Path | None = None
    """Another plan, with runs of the same names. Default: the plan that comes with the package."""


def check_sweep(config: RunsConfig) -> None:
    """Hold the settings of a sweep against all their rules; raises ConfigError."""
    typed(config)
    if config.ray and config.jobs:
        raise ConfigError("jobs is not for a Ray cluster, which places runs by itself.")
