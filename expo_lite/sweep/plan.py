"""A plan of runs as TOML: settings that all runs share, what each run has of its own, and the seeds; free of torch.

seeds = [0, 1, 2]
[common]                      # settings of `train`, for all runs
steps = 100
[runs.exp-grpo]               # and of one run, under its name
method = "exp-grpo"
[grid]                        # each run (or one, if none is named) with every combination of these
"explanation.exp_sft_coef" = [0.04, 0.5]
[quick]                       # what --quick has instead
seeds = [0]
[quick.common]
steps = 20

For `replicate` a plan also has `diagnose_problems`, and the names by which claims.py knows its runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from expo_lite.errors import ConfigError
from expo_lite.run.target import resolve_run
from expo_lite.settings.machine import default_model
from expo_lite.settings.models import suggestion
from expo_lite.settings.schema import flat, from_mapping, merged, to_json, toml_values
from expo_lite.settings.sweep import RunsConfig, check_sweep
from expo_lite.settings.train import RunConfig, TrainConfig, run_name
from expo_lite.tasks import check_name

HERE = Path(__file__).parent
REPLICATE = "replicate"
PRESETS = tuple(sorted(file.stem for file in HERE.glob("*.toml")))
"""The plans that come with the package."""
KEYS = ("seeds", "diagnose_problems", "common", "runs", "grid")
FIXED = ("seed", "output", "resume")
"""Settings that the command sets for each run."""
EVALUATED = (
    "model",
    "start_from",
    "task",
    "data.",
    "question_prompt",
    "explanation.explanation_prompt",  # what does not fit with it is left out
    "evaluation.",
    "policy.bits",
    "sampling.max_completion_tokens",
)
"""How the names of settings begin that the evaluation of the untrained model depends on."""
MOST_RUNS = 10_000


@dataclass(frozen=True)
class SweepPlan:
    """What is to be run: the settings of each run by name, before seed and folder are filled in."""

    name: str
    seeds: tuple[int, ...]
    diagnose_problems: int
    """Problems a level for the diagnosis of the base, once a seed; 0 for none."""
    runs: dict[str, TrainConfig]
    folder: Path

    def config(self, run: str, seed: int) -> RunConfig:
        """The whole settings of one run; it always goes on with what its folder has."""
        output = self.folder / "runs" / f"{run}-seed{seed}"
        return resolve_run(replace(self.runs[run], seed=seed, output=output, resume=True))

    def configs(self) -> Iterator[RunConfig]:
        """Every run of every seed, all runs of a seed before the next seed's."""
        return (self.config(name, seed) for seed in self.seeds for name in self.runs)

    @property
    def any_config(self) -> RunConfig:
        """The settings of the first run, for what is the same in all."""
        return next(self.configs())

    def bases(self) -> dict[Path, RunConfig]:
        """The evaluations of untrained models that the runs start from, each with a run that does; most often one."""
        return {self.base_file(config): config for config in self._kinds.values()}

    def base_file(self, config: RunConfig) -> Path:
        """Where the evaluation of the model that a run starts from is kept."""
        place = list(self._kinds).index(_kind(config))
        return self.folder / f"base-evaluation{f'-{place + 1}' if place else ''}.json"

    @cached_property
    def base_names(self) -> dict[str, str]:
        """By run: the untrained model that it starts from, named by what sets it apart; nothing where there is one."""
        tables = {kind: _evaluated(config) for kind, config in self._kinds.items()}
        first = next(iter(tables.values()))
        differing = [key for key in first if any(table[key] != first[key] for table in tables.values())]
        names: dict[str, str] = {}
        for place, (kind, table) in enumerate(tables.items(), 1):
            words = [f"{key.rsplit('.', 1)[-1]}={_word(table[key])}" for key in differing]
            names[kind] = f"base {place} ({'-'.join(words)})"
        if len(names) == 1:
            return {}
        return {name: names[_kind(self.config(name, self.seeds[0]))] for name in self.runs}

    @cached_property
    def _kinds(self) -> dict[str, RunConfig]:
        kinds: dict[str, RunConfig] = {}
        for name in self.runs:
            config = self.config(name, self.seeds[0])
            kinds.setdefault(_kind(config), config)
        return kinds


def read_plan(plan: Path, config: RunsConfig) -> SweepPlan:
    """The plan as the command line asks for it, every run's settings checked; a preset is known by its name.

    Raises:
        ConfigError: the file is missing or not a plan, or settings are wrong; the text names the run.
    """
    check_sweep(config)
    file = HERE / f"{plan}.toml" if str(plan) in PRESETS and not plan.exists() else plan
    if not file.exists():
        hint = suggestion(str(plan), PRESETS)
        raise ConfigError(f"There is no plan '{plan}'. Give a TOML file, or one of {', '.join(PRESETS)}.{hint}")
    values = toml_values(file)
    quick = _table(values, "quick", file)
    values.pop("quick", None)
    for key in (*values, *quick):
        if key not in KEYS:
            raise ConfigError(f"{file}: unknown key '{key}'.{suggestion(key, KEYS)}")
    if config.quick:
        values = merged(values, quick)
    given = {name: value for name in ("model", "task") if (value := getattr(config, name)) is not None}
    runs = {name: _run(f"{file}: runs.{name}", settings, given) for name, settings in _settings(values, file).items()}
    seeds = config.seeds or values.get("seeds")
    if not isinstance(seeds, list | tuple) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{file}: a plan has seeds, none below 0.")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{file}: seeds must differ: {', '.join(map(str, seeds))}.")
    n = values.get("diagnose_problems", 0)
    if type(n) is not int or not 0 <= n <= 1_000_000:
        raise ConfigError(f"{file}: diagnose_problems must be a number from 0 to 1,000,000, not {n!r}.")
    some = next(iter(runs.values()))
    name = f"{file.stem}-{run_name(some.model or default_model(), some.task)}{'-quick' if config.quick else ''}"
    read = SweepPlan(file.stem, tuple(seeds), n, runs, config.output or Path("runs") / name)
    for run in runs:
        resolved = read.config(run, seeds[0])
        check_name(resolved.task, resolved.data, resolved.levels)
        if resolved.evaluation.stop_after_worse:
            raise ConfigError(
                f"{file}: runs.{run}: stop_after_worse is not for plans: runs of one length are compared."
            )
    return read


def _settings(values: dict[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """The settings of every run by name: what is common, what is its own, and one choice from the grid."""
    common, runs, grid = (_table(values, key, file) for key in ("common", "runs", "grid"))
    axes = list(flat(grid))
    for key, choices in axes:
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{file}: grid.{key} must be a list of at least one value, not {choices!r}.")
    if not runs and not axes:
        raise ConfigError(f"{file}: a plan has at least one run under [runs.NAME], or a [grid].")
    found = {}
    for name in runs or ("",):
        own = merged(common, _table(runs, name, file)) if name else common
        for chosen in product(*(choices for _, choices in axes)):
            words = [f"{key.rsplit('.', 1)[-1]}={_word(value)}" for (key, _), value in zip(axes, chosen, strict=True)]
            settings = own
            for (key, _), value in zip(axes, chosen, strict=True):
                settings = merged(settings, _nested(key, value))
            found["-".join([name, *words] if name else words)] = settings
            if len(found) > MOST_RUNS:
                raise ConfigError(f"{file}: more than {MOST_RUNS:,} runs. Take fewer values in [grid].")
    return found


def _run(where: str, settings: dict[str, Any], given: dict[str, Any]) -> TrainConfig:
    for name in FIXED:
        if name in settings:
            raise ConfigError(f"{where}: '{name}' is not the plan's: the command sets it for each run.")
    return from_mapping(TrainConfig, settings | given, where)


def _evaluated(config: RunConfig) -> dict[str, Any]:
    """What the evaluation of the untrained model depends on, by the settings' names."""
    return {name: value for name, value in flat(to_json(config)) if name.startswith(EVALUATED)}


def _kind(config: RunConfig) -> str:
    return repr((_evaluated(config), config.start_sha256))


def _table(values: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: '{key}' must be a table.")
    return table


def _nested(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    return "+".join(map(_word, value)) if isinstance(value, list) else str(value).replace("/", "_")
