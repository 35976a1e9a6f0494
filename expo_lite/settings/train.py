"""The settings of a training run: as they are given, and as they are once model and machine have filled in the rest.

Groups exist for reading and for TOML tables; on the command line their fields stand side by side.
"""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from expo_lite.errors import ConfigError
from expo_lite.records import Level
from expo_lite.settings import machine
from expo_lite.settings.groups import (
    DpoConfig,
    ExplanationFilter,
    ExpoConfig,
    HeldOutConfig,
    LossConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    TaskOptions,
)
from expo_lite.settings.methods import METHODS, ChainSource, Method
from expo_lite.settings.models import find_model, prompt_file
from expo_lite.settings.schema import AT_LEAST_0, AT_LEAST_1, COMPLETIONS, PROBLEMS, SEED, changed, typed

Draw = Literal["hard", "even", "new"]
LONGEST_LABEL = 60
Logger = Literal["tensorboard", "wandb", "trackio", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab"]
"""The trackers of accelerate; each is also the name of its package."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Train a LoRA adapter with ExPO, and show what changed."""

    model: str | None = None
    """An alias, OWNER/NAME, a folder or a GGUF file; or a run, checkpoint or adapter folder to start from.
    Default: tiny without a GPU, qwen2.5-3b with one."""
    task: str = "hidden-rules"
    """The task to train on; `expo-lite tasks` lists them."""
    levels: tuple[Level, ...] = ()
    """Levels to train on. Default: all; those that are solved hold the policy in place."""
    method: Method = "exp-grpo"
    """The rows a step learns from: groups, explanations, expert chains or pairs. A table of all is in
    examples/guides/choosing.md."""
    steps: Annotated[int | None, AT_LEAST_1] = None
    """Training steps. The default depends on the model; `expo-lite models` shows it."""
    group_size: Annotated[int, Interval(ge=2, le=4_096)] = 8
    """Completions of each problem (the paper's G)."""
    problems_per_step: Annotated[int, COMPLETIONS] = 8
    """Problems that each step samples and learns from."""
    draw: Draw = "new"
    """new: each problem once a pass. hard: low success rates more often. even: rates near one half more often.
    A run keeps each problem's success rate. Every problem has a chance, and one not drawn yet has the best."""
    seed: Annotated[int, SEED] = 0
    """The seed of all that is random: the adapter, the order of problems and every sample."""
    output: Path | None = None
    """The run folder. Default: runs/MODEL-TASK-METHOD-seedN."""
    resume: bool = False
    """Continue from the newest whole checkpoint of the run folder.
    With --output and nothing else the settings are those of the run."""
    save_every: Annotated[int, AT_LEAST_1] = 20
    """Steps between checkpoints. The last two are kept."""
    log: tuple[Logger, ...] = ()
    """Loggers that get every step's metrics and the evaluations, beside metrics.jsonl.
    tensorboard, wandb and trackio are extras."""
    diagnostics_every: Annotated[int, AT_LEAST_0] = 10
    """Steps between measurements of the answer lift and the expert chains' likelihood. 0: never."""
    diagnose_first: Annotated[int, AT_LEAST_0] = 8
    """Before a run of 50 steps or more, check explanations on this many problems per level (0: skip)."""
    train_problems: Annotated[int | None, PROBLEMS] = None
    """Train on at most this many problems of each level; of a task without levels, this many in all.
    Default: all, of hidden-rules 64."""
    question_prompt: Path | None = None
    """A text file with the prompt that asks a problem, in training and evaluation. It has {question} in it.
    Lines '--- system', '--- user' and '--- assistant' begin a turn each, for a system prompt or worked examples."""
    data: TaskOptions = field(default_factory=TaskOptions)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sampling: RolloutConfig = field(default_factory=RolloutConfig)
    explanation: ExpoConfig = field(default_factory=ExpoConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)

    @property
    def prompt_files(self) -> tuple[Path | None, Path | None]:
        """The files of the question prompt and of the explanation prompt; None for the usual ones."""
        return self.question_prompt, prompt_file(self.explanation.explanation_prompt)

    @property
    def chain_source(self) -> ChainSource:
        """The source of the chains to imitate or to prefer."""
        spec = METHODS[self.method]
        if spec.pairs:
            return self.dpo.chosen
        return "none" if spec.coef and self.explanation.exp_sft_coef == 0 else spec.chains

    @property
    def refresh_steps(self) -> int:
        """The number of steps that an explanation or a pair is used for; 0 for ever."""
        given = self.explanation.explanation_refresh_steps
        return METHODS[self.method].refresh_steps if given is None else given


@dataclass(frozen=True, slots=True)
class ResolvedRollout(RolloutConfig):
    """The sampling, with the length that follows from the model."""

    max_completion_tokens: int = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class ResolvedOptimizer(OptimizerConfig):
    """The optimiser, with the learning rate that follows from the model and the method."""

    learning_rate: float = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class RunConfig(TrainConfig):
    """The settings of one run: nothing that follows from the model is left open (see `resolve`)."""

    model: str = field(kw_only=True)
    steps: int = field(kw_only=True)
    output: Path = field(kw_only=True)
    sampling: ResolvedRollout = field(kw_only=True)
    optimizer: ResolvedOptimizer = field(kw_only=True)
    start_from: Path | None = None
    """The adapter folder that the run starts from; the run folder keeps a copy of it. None: from the base model."""
    start_sha256: str | None = None
    """The checksum of that adapter's weights."""


def resolve(config: TrainConfig) -> RunConfig:
    """Check the settings, and fill in what depends on the machine and the model.

    Raises:
        ConfigError: a setting is out of bounds, contradicts another, or names what is not here.
    """
    config = typed(config)
    _check(config)
    model = config.model or machine.default_model()
    preset = find_model(model, config.policy.revision)
    sampling, optimizer = _fields(config.sampling), _fields(config.optimizer)
    sampling["max_completion_tokens"] = sampling["max_completion_tokens"] or preset.max_completion_tokens
    # Once pairs are told apart, nothing in DPO's loss holds either side up: at the full rate the former built-in model
    # told them apart in 30 steps, and had unlearned all levels in 60.
    rate = preset.dpo_learning_rate if METHODS[config.method].pairs else preset.learning_rate
    optimizer["learning_rate"] = optimizer["learning_rate"] or rate
    return RunConfig(
        **_fields(config)
        | {
            "model": model,
            "steps": config.steps or preset.steps,
            "output": config.output
            or Path("runs") / f"{run_name(model, config.task)}-{config.method}-seed{config.seed}",
            "policy": replace(config.policy, bits=config.policy.bits or 4),
            "explanation": replace(
                config.explanation,
                explain=config.explanation.explain or METHODS[config.method].gate,
                exp_sft_coef=coefficient(config.method, config.explanation),
            ),
            "sampling": ResolvedRollout(**sampling),
            "optimizer": ResolvedOptimizer(**optimizer),
        }
    )


def coefficient(method: Method, explanation: ExpoConfig) -> float | None:
    """exp_sft_coef as given, else the method's default; None if it has nothing to scale."""
    if explanation.exp_sft_coef is not None:
        return explanation.exp_sft_coef
    return 0.01 if method == "soft-explain" and explanation.teacher == "current" else METHODS[method].coef


def run_name(model: str, task: str) -> str:
    """MODEL-TASK, without owners and folders."""
    return f"{model.rstrip('/').rsplit('/', 1)[-1]}-{task_label(task)}"


def task_label(task: str) -> str:
    """Name a task in the name of a folder: jsonl:data/sums.jsonl is jsonl-sums, hub:OWNER/NAME is hub-NAME."""
    kind, _, rest = task.partition(":")
    own = re.sub(r"\.(jsonl?|csv|tsv|parquet|arrow)(\.\w+)?$", "", rest.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^\w.,]+", "-", f"{kind}-{own}")[:LONGEST_LABEL].strip("-.")


def _fields(settings: Any) -> dict[str, Any]:
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}


def _check(config: TrainConfig) -> None:
    """Every rule of the settings beside their bounds: those between fields, and those of the method."""
    check_filters(config.explanation.explanation_filter)
    check_of_use(config, in_plan=True)
    machine.check_backend(config.policy.backend)
    for name in config.log:
        if not machine.is_installed(name):
            raise ConfigError(f"logger '{name}' is not installed: {machine.how_to_install(name)}.")
    if len({*config.policy.lora_targets}) < len(config.policy.lora_targets):
        raise ConfigError("lora_targets has a name twice.")
    if config.evaluation.eval_every and not config.evaluation.eval_problems:
        raise ConfigError("eval_every needs --eval-problems above 0.")


def check_of_use(config: TrainConfig, *, in_plan: bool = False, own: Collection[str] = ()) -> None:
    """Refuse settings that do nothing with the method and the others; in a plan runs may share some, not of their own.

    The explanation prompt always counts: `diagnose RUN` asks in its words.

    Raises:
        ConfigError: there are such settings; the error names them.
    """
    spec, expo = METHODS[config.method], set(changed(config.explanation)) - {"explanation_prompt"}
    drawn, clips = {"draw", "group_size"} & set(changed(config)), {"clip_low", "clip_high"} & set(changed(config.loss))
    of_term, of_chains, refresh = {"exp_sft_coef", "exp_sft_schedule"}, {"explain"}, {"explanation_refresh_steps"}
    others = (
        of_term | of_chains | {"exp_sft_normalisation", "teacher", "train_context"} | (refresh if spec.pairs else set())
    )
    rules = [
        (spec.pairs, set(changed(config.dpo))),
        (spec.groups or config.explanation.explain == "all-wrong", drawn),
        (spec.grpo, set(changed(config.loss)) - {"updates_per_batch"}),
        (config.method == "grpo", set(changed(config.sampling)) & {"resample"}),
        (spec.coef is not None, expo & of_term),
        (spec.chains != "none", expo & of_chains),
        (not spec.gate_is_fixed or config.explanation.explain == spec.gate, expo & of_chains),
        (spec.imitates, expo & {"exp_sft_normalisation"}),
        (spec.teacher, expo & {"teacher"}),
        (config.method == "hint", expo & {"train_context"}),
        ((config.dpo.chosen if spec.pairs else spec.chains) == "explanation", expo - others),
        (not spec.pairs or config.dpo.pairs != "offline", expo & refresh | drawn & {"draw"}),
    ]
    unused = {name for of_use, names in rules if not of_use for name in names}
    if in_plan:
        unused -= (expo | drawn).difference(own)
    if unused:
        having = f"{config.dpo.pairs} pairs of {config.dpo.chosen}" if spec.pairs else f"method '{config.method}'"
        having += "; see examples/guides/choosing.md"
        raise ConfigError(f"{', '.join(sorted(unused))} set, but of no use with {having}.")
    if in_plan:
        return
    if clips and config.loss.updates_per_batch == 1:
        raise ConfigError(f"{', '.join(sorted(clips))} set, but of no use with updates_per_batch 1.")
    if config.explanation.exp_sft_coef == 0 and spec.coef and (others := expo - {"exp_sft_coef"}):
        raise ConfigError(f"{', '.join(sorted(others))} set, but of no use with exp_sft_coef 0.")
    if "max_reliance" in expo and "reliance" not in config.explanation.explanation_filter:
        raise ConfigError("max_reliance set, but of no use without reliance in explanation_filter.")


def check_filters(filters: tuple[ExplanationFilter, ...]) -> None:
    """Raise ConfigError if there is no filter, or 'none' beside another."""
    if not filters or ("none" in filters and len(filters) > 1):
        raise ConfigError("explanation_filter takes 'none' alone, or one or several of the others.")
