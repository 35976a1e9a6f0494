"""The settings of `expo-lite sweep`, and of `expo-lite replicate`, which is one with a plan of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from expo_lite.settings.schema import SEED, check_rules, check_values


@dataclass(frozen=True, slots=True)
class RunsConfig:
    """What every plan of runs takes."""

    model: str | None = None
    """The model of all runs. Default: the plan's, else tiny without a GPU and qwen2.5-3b with one."""
    task: str | None = None
    """The task of all runs. Default: the plan's, else hidden-rules."""
    quick: bool = False
    """Run the plan's quick form, if it has one."""
    seeds: tuple[Annotated[int, SEED], ...] = ()
    """The seeds to run the plan with. Default: the plan's own."""
    jobs: Annotated[int | None, Interval(ge=1, le=1_024)] = None
    """How many runs go side by side and share the cores. Default: one for each core, or one for each GPU."""
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
    check_values(config)
    check_rules([(not (config.ray and config.jobs), "jobs is not for a Ray cluster, which places runs by itself.")])
