"""The settings of `expo-lite replicate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from expo_lite.settings.schema import SEED, Bounds, check_rules, check_values


@dataclass(frozen=True, slots=True)
class ReplicateConfig:
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    model: str | None = None
    """An alias, OWNER/NAME, a folder or a GGUF file. Default: tiny without a GPU, qwen2.5-3b with one."""
    task: str = "hidden-rules"
    """What to train on and be measured on; it must have levels."""
    plan: Path | None = None
    """A TOML file with the plan. Default: the plan that comes with the package."""
    quick: bool = False
    """Run the plan's quick form, with one seed and fewer steps."""
    seeds: Annotated[tuple[int, ...], SEED] = ()
    """The seeds to run the plan with. Default: the plan's own."""
    jobs: Annotated[int | None, Bounds(least=1, most=1_024)] = None
    """How many runs go side by side and share the cores. Default: one for each core, or 1 with a GPU."""
    output: Path | None = None
    """Folder for run folders and results. Default: runs/replicate-MODEL-TASK."""
    resume: bool = False
    """Go on with what the output folder already has; what is finished is not run again."""


def check_replicate(config: ReplicateConfig) -> None:
    """Hold the settings of a replication against all their rules; raises ConfigError."""
    check_values(config)
    distinct = len(set(config.seeds)) == len(config.seeds)
    check_rules([(distinct, f"seeds must differ: {', '.join(map(str, config.seeds))}.")])
