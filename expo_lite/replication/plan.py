"""A plan of runs as TOML: settings that all runs share, what each run has of its own, and the seeds; free of torch.

seeds = [0, 1, 2]
diagnose_problems = 40
[common]                      # settings of `train`, for all runs
eval_problems ...
[runs.exp-grpo-hard]          # and of one run, under the name that claims.py knows it by
method = "exp-grpo"
[quick]                       # what --quick has instead
seeds = [0]
[quick.common]
steps = 20
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expo_lite.errors import ConfigError
from expo_lite.settings.machine import default_model
from expo_lite.settings.models import suggestion
from expo_lite.settings.replicate import ReplicateConfig, check_replicate
from expo_lite.settings.schema import from_mapping, toml_values
from expo_lite.settings.train import RunConfig, TrainConfig, resolve, run_name
from expo_lite.tasks import check_name

DEFAULT_PLAN = Path(__file__).parent / "replicate.toml"
KEYS = ("seeds", "diagnose_problems", "common", "runs")
FIXED = ("model", "task", "seed", "output", "resume")
"""Settings that the command sets for all runs alike."""


@dataclass(frozen=True, slots=True)
class ReplicationPlan:
    """What is to be run: the settings of each run by name, before seed and folder are filled in."""

    seeds: tuple[int, ...]
    diagnose_problems: int
    runs: dict[str, TrainConfig]
    folder: Path

    def config(self, run: str, seed: int) -> RunConfig:
        """The whole settings of one run; it always goes on with what its folder has."""
        output = self.folder / "runs" / f"{run}-seed{seed}"
        return resolve(replace(self.runs[run], seed=seed, output=output, resume=True))

    @property
    def any_config(self) -> RunConfig:
        """The settings of the first run, for what is the same in all."""
        return self.config(next(iter(self.runs)), self.seeds[0])


def read_plan(config: ReplicateConfig) -> ReplicationPlan:
    """The plan as the command line asks for it, every run's settings checked.

    Raises:
        ConfigError: the file is missing or not a plan, or settings are wrong; the text names the run.
    """
    check_replicate(config)
    file = config.plan or DEFAULT_PLAN
    values = toml_values(file)
    quick = values.pop("quick", {})
    for key in (*values, *quick):
        if key not in KEYS:
            raise ConfigError(f"{file}: unknown key '{key}'.{suggestion(key, KEYS)}")
    if config.quick:
        values = _merged(values, quick)
    model, task = config.model or default_model(), config.task
    common = _table(values, "common", file)
    runs = {
        name: _run(f"{file}: runs.{name}", _merged(common, settings), model, task)
        for name, settings in _table(values, "runs", file).items()
    }
    seeds = config.seeds or tuple(values.get("seeds", ()))
    if not runs or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{file}: a plan has seeds, none below 0, and at least one run under [runs.NAME].")
    folder = config.output or Path("runs") / f"replicate-{run_name(model, task)}{'-quick' if config.quick else ''}"
    plan = ReplicationPlan(seeds, int(values.get("diagnose_problems", 32)), runs, folder)
    for name in runs:
        run = plan.config(name, seeds[0])
        check_name(task, run.data, run.levels)
    if len({_shared(plan.config(name, seeds[0])) for name in runs}) > 1:
        raise ConfigError(f"{file}: all runs must be evaluated alike, on one model: set that in [common].")
    return plan


def _run(where: str, settings: dict[str, Any], model: str, task: str) -> TrainConfig:
    for name in FIXED:
        if name in settings:
            raise ConfigError(f"{where}: '{name}' is not the plan's: it is set by the command for all runs.")
    return from_mapping(TrainConfig, settings | {"model": model, "task": task}, where)


def _shared(config: RunConfig) -> str:
    """What the one evaluation of the base depends on."""
    return repr((config.evaluation, config.policy.bits, config.sampling.max_completion_tokens))


def _table(values: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: '{key}' must be a table.")
    return table


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested tables in one; where both have a value, the second one's."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
