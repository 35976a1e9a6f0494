"""Read a plan of runs from TOML: the settings that all runs share, those of each run, and the seeds; no torch.

base = "remedies"             # start from a plan that comes with the package; what follows replaces its values
seeds = [0, 1, 2]
[common]                      # settings of `train`, for all runs
steps = 100
[runs.exp-grpo]               # settings of one run, under its name
method = "exp-grpo"
[grid]                        # each run (or a single one) with every combination of these
explanation.exp_sft_coef = [0.04, 0.5]
[quick]                       # replaces these with --quick
seeds = [0]
[quick.common]
steps = 20

For `replicate` a plan also has `diagnose_problems`, and the names by which claims.py knows its runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from expo_lite.errors import ConfigError
from expo_lite.results.paired import TERMS
from expo_lite.run.folder import differing, read_json, write_json
from expo_lite.run.target import resolve_run
from expo_lite.settings.machine import default_model
from expo_lite.settings.models import suggestion
from expo_lite.settings.plans import RunsConfig, check_sweep
from expo_lite.settings.schema import SEED, flat, from_mapping, merged, to_json, toml_values
from expo_lite.settings.train import RunConfig, TrainConfig, check_of_use, run_name
from expo_lite.sweep.results import BASE
from expo_lite.tasks import check_name

HERE = Path(__file__).parent
KEPT = "plan.json"
"""The plan in the sweep's folder, so that the folder alone can be watched and reported."""
REPLICATE = "replicate"
PRESETS = tuple(sorted(file.stem for file in HERE.glob("*.toml")))
"""The plans that come with the package."""
FIXED = ("seed", "output", "resume")
"""Settings that the command sets for each run."""
EVALUATED = (*TERMS, "model", "start_", "evaluation.", "policy.bits", "policy.revision")
"""Prefixes of the settings that the evaluation before training depends on. All runs share it, and so agree in these."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan as TOML has it."""

    seeds: tuple[Annotated[int, SEED], ...] = ()
    diagnose_problems: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    common: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    """Runs that each of the others is compared with."""

    def settings(self, where: str) -> dict[str, tuple[dict[str, Any], set[str]]]:
        """The settings of every run by name: common ones, its own, a choice of the grid; and the names of the last two.

        Raises:
            ConfigError: a choice of the grid is no list, there are no runs, or a run or a setting is named wrongly.
        """
        axes = list(flat(self.grid))
        for key, choices in axes:
            if not isinstance(choices, list) or not choices:
                raise ConfigError(f"{where}: grid.{key} must be a list of at least one value, not {choices!r}.")
        if wrong := [key for key in self.grid if "." in key]:  # a plan that replaces it would have the setting twice
            raise ConfigError(f"{where}: write grid.{wrong[0]} without quotes.")
        if wrong := [name for name in self.runs if name == BASE or "/" in name]:
            raise ConfigError(f"{where}: runs.{wrong[0]}: the name of a run is not '{BASE}', and has no '/'.")
        if not self.runs and not axes:
            raise ConfigError(f"{where}: a plan has at least one run under [runs.NAME], or a [grid].")
        runs = {}
        for name, own in (self.runs or {"": {}}).items():
            for values in product(*(choices for _, choices in axes)):
                chosen = [(key, value) for (key, _), value in zip(axes, values, strict=True)]
                words = [f"{key.rsplit('.', 1)[-1]}={_word(value)}" for key, value in chosen]
                runs["-".join([name, *words] if name else words)] = (
                    reduce(lambda below, choice: merged(below, _nested(*choice)), chosen, merged(self.common, own)),
                    {key.rpartition(".")[2] for key, _ in [*flat(own), *chosen]},
                )
        return runs


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A plan: the settings of each run by name, before seed and folder are filled in."""

    name: str
    seeds: tuple[int, ...]
    diagnose_problems: int
    """Problems a level for the diagnosis of the base, once a seed; 0 for none."""
    runs: dict[str, TrainConfig]
    folder: Path
    against: tuple[str, ...] = ()
    """Runs that each of the others is compared with."""

    def config(self, run: str, seed: int) -> RunConfig:
        """The resolved settings of one run; it resumes whatever its folder has."""
        output = self.folder / "runs" / f"{run}-seed{seed}"
        return resolve_run(replace(self.runs[run], seed=seed, output=output, resume=True))

    def configs(self) -> Iterator[RunConfig]:
        """Every run of every seed, all runs of a seed before the next seed's."""
        return (self.config(name, seed) for seed in self.seeds for name in self.runs)

    @property
    def any_config(self) -> RunConfig:
        """The settings of the first run, for what is the same in all."""
        return next(self.configs())

    @property
    def base_file(self) -> Path:
        """The file of the evaluation before training, which all runs share."""
        return self.folder / "base-evaluation.json"


def keep_plan(plan: SweepPlan) -> None:
    """Write the plan into its folder.

    Raises:
        CheckpointError: it cannot be written.
        ConfigError: what is there was made for a plan that starts from another model, or is measured otherwise.
    """
    if kept := kept_plan(plan.folder):
        there, given = ({"diagnose_problems": p.diagnose_problems} | _evaluated(p.any_config) for p in (kept, plan))
        if details := differing(there, given):
            raise ConfigError(f"The sweep in '{plan.folder}' has other settings: {details}. Choose another --output.")
    write_json(plan.folder / KEPT, to_json(plan))


def kept_plan(folder: Path) -> SweepPlan | None:
    """Read the plan of the sweep in a folder; None if there is no sweep."""
    if not (file := folder / KEPT).exists():
        return None
    return replace(from_mapping(SweepPlan, read_json(file), str(file)), folder=folder)


def read_plan(plan: Path, config: RunsConfig) -> SweepPlan:
    """Read the plan that the command line asks for, and check every run's settings; a preset is known by its name.

    Raises:
        ConfigError: the file is missing or not a plan, or settings are wrong; the text names the run.
    """
    check_sweep(config)
    file, written = _written(plan, quick=config.quick)
    seeds = config.seeds or written.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{file}: a plan has seeds, and they differ, not '{', '.join(map(str, seeds))}'.")
    given = {name: value for name in ("model", "task") if (value := getattr(config, name)) is not None}
    runs = {}
    for name, (settings, own) in written.settings(str(file)).items():
        if wrong := [setting for setting in FIXED if setting in settings]:
            raise ConfigError(f"{file}: runs.{name}: '{wrong[0]}' is not the plan's: the command sets it for each run.")
        runs[name] = from_mapping(TrainConfig, settings | given, f"{file}: runs.{name}")
        check_of_use(runs[name], in_plan=True, own=own)
    some = next(iter(runs.values()))
    name = f"{file.stem}-{run_name(some.model or default_model(), some.task)}{'-quick' if config.quick else ''}"
    if wrong := [run for run in written.against if run not in runs]:
        raise ConfigError(
            f"{file}: against names '{wrong[0]}', which is no run of the plan.{suggestion(wrong[0], runs)}"
        )
    output = config.output or Path("runs") / name
    read = SweepPlan(file.stem, seeds, written.diagnose_problems, runs, output, written.against)
    if not read.any_config.evaluation.eval_problems:
        raise ConfigError(f"{file}: runs are compared by their evaluations: give evaluation.eval_problems above 0.")
    shared = _evaluated(read.any_config)
    for run in runs:
        resolved = read.config(run, seeds[0])
        check_name(resolved.task, resolved.data, resolved.levels)
        if others := [key for key, value in _evaluated(resolved).items() if value != shared[key]]:
            raise ConfigError(
                f"{file}: runs.{run} has another {', '.join(others)} than the first run. All runs of a plan start "
                "from one model and are evaluated alike; make two plans."
            )
    return read


def _written(plan: Path, *, quick: bool) -> tuple[Path, PlanFile]:
    """Find and read a plan, with the plan that it starts from."""
    file = HERE / f"{plan}.toml" if str(plan) in PRESETS and not plan.is_file() else plan
    if not file.exists():
        hint = suggestion(str(plan), PRESETS)
        raise ConfigError(f"There is no plan '{plan}'. Give a TOML file, or one of {', '.join(PRESETS)}.{hint}")
    values = toml_values(file)
    if (base := values.pop("base", None)) is not None:
        if base not in PRESETS:
            raise ConfigError(f"{file}: base must be a plan of the package: {', '.join(PRESETS)}, not {base!r}.")
        values = merged(toml_values(HERE / f"{base}.toml"), values)
    written = _plan_file(values, str(file))
    _plan_file(written.quick, f"{file}: quick")
    if quick:
        written = from_mapping(PlanFile, merged(values, written.quick), str(file))
    return file, written


def _plan_file(values: dict[str, Any], where: str) -> PlanFile:
    """Build a plan from its tables; an unknown name is answered with those that a plan has."""
    if wrong := [name for name in values if name not in PlanFile.__dataclass_fields__]:
        has = f"base, {', '.join(PlanFile.__dataclass_fields__)}; those of `train` go in [common] or [runs.NAME]."
        raise ConfigError(f"{where}: unknown setting '{wrong[0]}'. A plan has {has}")
    return from_mapping(PlanFile, values, where)


def _evaluated(config: RunConfig) -> dict[str, Any]:
    """The settings that all runs agree in. Fields may differ: a run can have other expert chains."""
    settings = flat(to_json(config))
    return {name: value for name, value in settings if name.startswith(EVALUATED) and name != "data.fields"}


def _nested(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    return "+".join(map(_word, value)) if isinstance(value, list) else str(value).replace("/", "_")
