"""Every setting of a run: frozen dataclasses, TOML in, JSON out, and the checks that span several fields.

One field is one flag. Groups exist for reading and for TOML tables; on the command line their fields stand side by side.
"""

import dataclasses
import importlib.util
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from expo_lite.errors import ConfigError
from expo_lite.settings.models import OTHER, PRESETS, suggestion

Method = Literal["grpo", "exp-grpo", "gt-sft-grpo", "exp-dpo", "star", "sft"]
GRPO_METHODS = ("grpo", "exp-grpo", "gt-sft-grpo")
DPO_LEARNING_RATE_SHARE = 0.1
"""Of the model's learning rate by default. Once pairs are told apart, nothing in the loss holds either side up: at the full
rate `tiny` tells them apart in 30 steps, and has unlearned all levels in 60. DPO is commonly run at a tenth of SFT's rate or less."""
ExplanationFilter = Literal["verified", "lift", "no-leak", "none"]
Backend = Literal["auto", "unsloth", "hf"]
Sampler = Literal["auto", "own", "native", "vllm"]
T = TypeVar("T")

MOST_MICRO_BATCH_TOKENS = 16_384
"""What a micro-batch has at most where the memory plan chooses: longer passes are no faster."""
MOST_SAMPLING_ROWS = 256
"""How many rows are decoded at most where the memory plan chooses."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Where a task reads its data, under which names, and how hard it is to be."""

    data: Path | None = None
    """Local file, or folder in the hub's layout, read instead of the hub."""
    test_file: Path | None = None
    """File of the test problems; without it a lone file holds out a fixed 10%."""
    question_field: str | None = None
    """Field with the question (default: question, problem or prompt)."""
    answer_field: str | None = None
    """Field with the reference answer (default: answer, gold or solution)."""
    level_field: str | None = None
    """Field with the level, 5 or 'Level 5' (default: level)."""
    subject_field: str | None = None
    """Field with the subject (default: subject or type)."""
    chain_field: str | None = None
    """Field with the expert's chain of thought (default: expert_chain, chain or solution)."""
    subjects: tuple[str, ...] = ()
    """Only problems of these subjects."""
    difficulty: tuple[str, ...] = ()
    """Settings of a reasoning-gym data set, as KEY=VALUE or NAME.KEY=VALUE."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The base model and its adapter."""

    bits: Literal[4, 16] = 4
    """4: NF4 with double quantisation; 16: no quantisation (bf16 on a GPU, fp32 on a CPU)."""
    lora_rank: int = 16
    """Rank of the adapter on all seven projections."""
    lora_alpha: int = 32
    """Scale of the adapter: its output is multiplied by lora_alpha / lora_rank."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass instead of keeping them."""
    backend: Backend = "auto"
    """What holds and runs the model: unsloth, hf (transformers), or auto: unsloth where it is installed and there is a GPU."""
    sampler: Sampler = "auto"
    """own: our decoding loop; native: the backend's generate; vllm: through Unsloth, on a GPU; auto: own, and native with
    unsloth on a GPU, whose code our loop cannot drive."""


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How completions are sampled for training."""

    temperature: float = 1.0
    """Of rollouts and explanations; log-probabilities are taken at it everywhere."""
    top_p: float = 1.0
    """Nucleus of rollouts and explanations; below 1 the sampler's distribution is no longer the policy's."""
    max_completion_tokens: int | None = None
    """Longest completion; default by model (tiny 160, others 512 or 1024)."""
    sampling_rows: int | None = None
    """Completions decoded at the same time; default: what the memory plan allows, at most 256."""


@dataclass(frozen=True, slots=True)
class ExplanationConfig:
    """Self-explanations: the settings that the paper leaves open."""

    exp_sft_coef: float = 0.04
    """Weight of the supervised term on explanations (exp-grpo) or expert chains (gt-sft-grpo); the paper's beta."""
    exp_sft_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How exp_sft_coef falls to 0 over the run."""
    exp_sft_normalisation: Literal["token", "sequence"] = "token"
    """token: mean over the tokens of a chain, like the GRPO term; sequence: their sum."""
    explain: Literal["all", "all-wrong"] = "all"
    """Which problems get a chain: all of them, or those whose whole group is wrong (star: always these)."""
    explanation_refresh_steps: int = 1
    """An explanation is used again until it is this many steps old; 1: always a new one, 0: made once."""
    explanation_filter: tuple[ExplanationFilter, ...] = ("verified",)
    """What an explanation must pass: verified (its own answer is right), lift (raises the answer's probability), no-leak
    (does not talk about a given answer); none: anything, with the right answer put at its end."""
    explanations_per_problem: int = 1
    """Explanations sampled a problem; of those accepted the one with the highest lift is used."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The GRPO loss."""

    kl_coef: float = 0.0
    """Weight of the KL divergence to the base model."""
    kl_on_dead_groups: bool = True
    """Whether groups without an advantage still pay the KL penalty."""
    clip_low: float = 0.2
    """The probability ratio is clipped at 1 - clip_low."""
    clip_high: float = 0.2
    """The probability ratio is clipped at 1 + clip_high."""
    advantage_scale: Literal["group", "batch", "none"] = "group"
    """Advantages are divided by the standard deviation of rewards in the group, in the batch, or by nothing."""
    loss_normalisation: Literal["sequence", "token", "dr_grpo"] = "sequence"
    """Mean over tokens then completions; mean over all tokens of the batch; or a constant, max_completion_tokens."""
    updates_per_batch: int = 1
    """Optimiser steps on one batch of samples."""


@dataclass(frozen=True, slots=True)
class DpoConfig:
    """Pairs and loss of exp-dpo."""

    pairs: Literal["offline", "online"] = "online"
    """exp-dpo: pairs of the initial policy, each made once; or of the policy as it is, made anew."""
    pair_refresh_steps: int = 10
    """exp-dpo, online: a pair is used again until it is this many steps old; 1: always a new one."""
    chosen: Literal["explanation", "expert"] = "explanation"
    """exp-dpo: what is preferred to the policy's own wrong completion, its self-explanation or the expert chain."""
    dpo_beta: float = 0.1
    """exp-dpo: how strongly the policy is held to the base model."""
    dpo_sft_coef: float = 0.0
    """exp-dpo: weight of an added supervised term on the chosen side, a mean over its tokens."""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """The update."""

    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """adamw-8bit keeps its state in 8 bits; it needs a GPU."""
    learning_rate: float | None = None
    """Peak learning rate; default by model (tiny 2e-3, from 1B on 1e-5), for exp-dpo a tenth of that."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to 0 after the warmup."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the adapter."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    micro_batch_tokens: int | None = None
    """Tokens, padding included, in one forward and backward pass; default: what the memory plan allows, at most 16384."""


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Held-out evaluation before and after training."""

    eval_problems: int = 40
    """Held-out problems a level (in all, where there are no levels); 0: no evaluation."""
    eval_samples: int = 16
    """Completions a problem."""
    k: tuple[int, ...] = (1, 4, 16)
    """The k of pass@k; none above eval_samples."""
    eval_temperature: float = 0.7
    """Sampling temperature of the evaluation, before and after."""
    eval_top_p: float = 1.0
    """Nucleus of the evaluation."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Train a LoRA adapter with ExPO, and show what changed."""

    model: str | None = None
    """Alias, OWNER/NAME, folder or GGUF file; default: tiny without a GPU, qwen2.5-3b with one."""
    task: str = "arithmetic"
    """What to train on; `expo-lite tasks` lists them."""
    levels: tuple[int, ...] = ()
    """Levels to train on; default: the task's hardest."""
    method: Method = "exp-grpo"
    """What to do with the samples."""
    steps: int | None = None
    """Training steps; default by model (tiny 60, others 300)."""
    group_size: int = 8
    """Completions a problem (G)."""
    problems_per_step: int = 8
    """Problems drawn a step (P)."""
    seed: int = 0
    """Of everything random."""
    output: Path | None = None
    """Run folder; default: runs/MODEL-TASK-METHOD-seedN."""
    resume: bool = False
    """Continue the newest whole checkpoint of the run folder."""
    fit: Literal["auto", "off"] = "auto"
    """auto: choose what is left open by the memory plan, and halve it when memory runs out; off: neither."""
    save_every: int = 20
    """Steps between checkpoints; the last two are kept."""
    profile: bool = False
    """Write a trace of this call's second step, profile-STEP.json.gz, into the run folder; open it in ui.perfetto.dev."""
    diagnostics_every: int = 10
    """Steps between measurements of the expert chain's likelihood and the answer lift; 0: never."""
    train_problems: int | None = None
    """Train on at most this many problems a level (in all, where there are no levels); default: all."""
    data: TaskOptions = field(default_factory=TaskOptions)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    explanation: ExplanationConfig = field(default_factory=ExplanationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def model_name(self) -> str:
        """The model, once `resolve` has filled it in."""
        assert self.model is not None  # noqa: S101 (resolve ran)
        return self.model

    @property
    def total_steps(self) -> int:
        """The number of steps, once `resolve` has filled it in."""
        assert self.steps is not None  # noqa: S101
        return self.steps

    @property
    def max_completion_tokens(self) -> int:
        """The longest completion, once `resolve` has filled it in."""
        assert self.sampling.max_completion_tokens is not None  # noqa: S101
        return self.sampling.max_completion_tokens

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, once `resolve` has filled it in."""
        assert self.optimizer.learning_rate is not None  # noqa: S101
        return self.optimizer.learning_rate

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of a micro-batch: as given, or the most that a plan chooses."""
        return self.optimizer.micro_batch_tokens or MOST_MICRO_BATCH_TOKENS

    @property
    def sampling_rows(self) -> int:
        """Completions decoded at the same time: as given, or the most that a plan chooses."""
        return self.sampling.sampling_rows or MOST_SAMPLING_ROWS

    @property
    def run_folder(self) -> Path:
        """The run folder, once `resolve` has filled it in."""
        assert self.output is not None  # noqa: S101
        return self.output


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on the machine and the model, then check the whole.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """
    model = config.model or default_model()
    preset = PRESETS.get(model, OTHER)
    short_name = model.rstrip("/").rsplit("/", 1)[-1]
    task_name = config.task.split(":", 1)[0]
    resolved = dataclasses.replace(
        config,
        model=model,
        steps=config.steps if config.steps is not None else preset.steps,
        output=config.output or Path("runs") / f"{short_name}-{task_name}-{config.method}-seed{config.seed}",
        sampling=dataclasses.replace(
            config.sampling,
            max_completion_tokens=config.sampling.max_completion_tokens
            if config.sampling.max_completion_tokens is not None
            else preset.max_completion_tokens,
        ),
        optimizer=dataclasses.replace(
            config.optimizer,
            learning_rate=config.optimizer.learning_rate
            if config.optimizer.learning_rate is not None
            else preset.learning_rate * (DPO_LEARNING_RATE_SHARE if config.method == "exp-dpo" else 1.0),
        ),
    )
    check(resolved)
    return resolved


def default_model() -> str:
    """The model for those who name none; looks for a GPU without importing torch."""
    return "qwen2.5-3b" if has_gpu() else "tiny"


def has_gpu() -> bool:
    """Whether an NVIDIA GPU's device file is there."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def check(config: TrainConfig) -> None:
    """Every rule that a type alone does not hold."""
    expl, loss, sampling, evaluation = config.explanation, config.loss, config.sampling, config.evaluation
    rules = [
        (config.total_steps >= 1, f"steps must be at least 1, not {config.steps}."),
        (config.group_size >= 2, f"group_size must be at least 2, not {config.group_size}: an advantage compares completions of one problem."),
        (config.problems_per_step >= 1, f"problems_per_step must be at least 1, not {config.problems_per_step}."),
        (config.seed >= 0, f"seed must not be negative, not {config.seed}."),
        (config.save_every >= 1, f"save_every must be at least 1, not {config.save_every}."),
        (config.diagnostics_every >= 0, f"diagnostics_every must not be negative, not {config.diagnostics_every}."),
        (config.train_problems is None or config.train_problems >= 1, f"train_problems must be at least 1, not {config.train_problems}; leave it out for all."),
        (config.policy.lora_rank >= 1, f"lora_rank must be at least 1, not {config.policy.lora_rank}."),
        (config.policy.lora_alpha >= 1, f"lora_alpha must be at least 1, not {config.policy.lora_alpha}."),
        *_backend_rules(config.policy.backend, config.policy.sampler),
        (positive(sampling.temperature), f"temperature must be above 0, not {sampling.temperature}; GRPO needs samples that differ."),
        (0 < sampling.top_p <= 1, f"top_p must be above 0 and at most 1, not {sampling.top_p}."),
        (config.max_completion_tokens >= 1, f"max_completion_tokens must be at least 1, not {sampling.max_completion_tokens}."),
        (sampling.sampling_rows is None or sampling.sampling_rows >= 1, f"sampling_rows must be at least 1, not {sampling.sampling_rows}."),
        (expl.exp_sft_coef >= 0 and math.isfinite(expl.exp_sft_coef), f"exp_sft_coef must not be negative, not {expl.exp_sft_coef}."),
        (expl.explanation_refresh_steps >= 0, f"explanation_refresh_steps must not be negative, not {expl.explanation_refresh_steps}."),
        (expl.explanations_per_problem >= 1, f"explanations_per_problem must be at least 1, not {expl.explanations_per_problem}."),
        (loss.kl_coef >= 0 and math.isfinite(loss.kl_coef), f"kl_coef must not be negative, not {loss.kl_coef}."),
        (0 <= loss.clip_low <= 1, f"clip_low must be between 0 and 1, not {loss.clip_low}."),
        (loss.clip_high >= 0, f"clip_high must not be negative, not {loss.clip_high}."),
        (loss.updates_per_batch >= 1, f"updates_per_batch must be at least 1, not {loss.updates_per_batch}."),
        (config.dpo.pair_refresh_steps >= 1, f"pair_refresh_steps must be at least 1, not {config.dpo.pair_refresh_steps}."),
        (positive(config.dpo.dpo_beta), f"dpo_beta must be above 0, not {config.dpo.dpo_beta}."),
        (config.dpo.dpo_sft_coef >= 0 and math.isfinite(config.dpo.dpo_sft_coef), f"dpo_sft_coef must not be negative, not {config.dpo.dpo_sft_coef}."),
        (positive(config.learning_rate), f"learning_rate must be above 0, not {config.learning_rate}."),
        (config.optimizer.warmup_steps >= 0, f"warmup_steps must not be negative, not {config.optimizer.warmup_steps}."),
        (config.optimizer.weight_decay >= 0, f"weight_decay must not be negative, not {config.optimizer.weight_decay}."),
        (positive(config.optimizer.max_grad_norm), f"max_grad_norm must be above 0, not {config.optimizer.max_grad_norm}."),
        (config.optimizer.micro_batch_tokens is None or config.optimizer.micro_batch_tokens >= 1, f"micro_batch_tokens must be at least 1, not {config.optimizer.micro_batch_tokens}."),
        (config.optimizer.optimizer != "adamw-8bit" or has_gpu(), "optimizer 'adamw-8bit' needs a GPU; use 'adamw'."),
        (evaluation.eval_problems >= 0, f"eval_problems must not be negative, not {evaluation.eval_problems}."),
        (evaluation.eval_samples >= 1, f"eval_samples must be at least 1, not {evaluation.eval_samples}."),
        (bool(evaluation.k) and all(1 <= k <= evaluation.eval_samples for k in evaluation.k), f"every k must be between 1 and eval_samples ({evaluation.eval_samples}), not {evaluation.k}."),
        (positive(evaluation.eval_temperature), f"eval_temperature must be above 0, not {evaluation.eval_temperature}."),
        (0 < evaluation.eval_top_p <= 1, f"eval_top_p must be above 0 and at most 1, not {evaluation.eval_top_p}."),
    ]  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)
    _check_filter(expl.explanation_filter)
    _check_method(config)


def _check_method(config: TrainConfig) -> None:
    """Settings that the method has no use for, or cannot work with."""
    method, dpo = config.method, config.dpo
    for_grpo = [name for name in _changed(config.loss) if name != "updates_per_batch"]
    rules = [
        (method == "exp-dpo" or not _changed(dpo), f"{', '.join(_changed(dpo))} set, but only method 'exp-dpo' makes pairs, not '{method}'."),
        (method in GRPO_METHODS or not for_grpo, f"{', '.join(for_grpo)} set, but only {', '.join(GRPO_METHODS)} have the GRPO loss, not '{method}'."),
        (dpo.pairs == "online" or "pair_refresh_steps" not in _changed(dpo), "pair_refresh_steps is for pairs 'online'; pairs 'offline' are made once."),
        (method != "exp-dpo" or config.explanation.explanation_refresh_steps == 1, "explanation_refresh_steps is not for method 'exp-dpo': pair_refresh_steps says when pairs, and so explanations, are made anew."),
        (method != "exp-dpo" or config.loss.updates_per_batch == 1, f"updates_per_batch must be 1 for method 'exp-dpo', not {config.loss.updates_per_batch}: the weights of pairs are those before the update."),
    ]  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)


def _changed(group: Any) -> list[str]:
    """The settings of a group that are not at their default."""
    return [f.name for f in dataclasses.fields(group) if getattr(group, f.name) != f.default]


def _backend_rules(backend: Backend | None, sampler: Sampler | None) -> list[tuple[bool, str]]:
    """What can be known of a backend and a sampler without importing either."""
    wants_vllm = sampler == "vllm"
    return [
        (backend != "unsloth" or is_installed("unsloth"), "backend 'unsloth' is not installed: pip install 'expo-lite[unsloth]', or take --backend hf."),
        (not wants_vllm or backend != "hf", "sampler 'vllm' works through Unsloth; leave --backend hf out, or take --sampler native."),
        (not wants_vllm or has_gpu(), "sampler 'vllm' needs a GPU; take --sampler own."),
        (not wants_vllm or (is_installed("vllm") and is_installed("unsloth")), "sampler 'vllm' is not installed: pip install 'expo-lite[vllm]', or take --sampler native."),
    ]  # fmt: skip


def check_backend(config: PolicyConfig) -> None:
    """Whether the backend and the sampler can be had here; raises ConfigError."""
    for holds, message in _backend_rules(config.backend, config.sampler):
        if not holds:
            raise ConfigError(message)


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def positive(value: float) -> bool:
    """Finite and above 0."""
    return value > 0 and math.isfinite(value)


def to_json(config: Any) -> dict[str, Any]:
    """Settings as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def from_mapping(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Build a dataclass from nested tables; what they leave out keeps its default.

    Raises:
        ConfigError: an unknown key (the nearest is suggested) or a value of the wrong type; `where` names the source.
    """
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown setting '{key}'.{suggestion(key, hints)}")
        arguments[key] = _convert(hints[key], value, f"{where}: {key}")
    return cls(**arguments)


def read_toml(cls: type[T], path: Path) -> T:
    """Settings from a TOML file with the fields of `cls`, groups as tables.

    Raises:
        ConfigError: the file is missing, is no TOML, or holds an unknown or ill-typed setting.
    """
    return from_mapping(cls, toml_values(path), str(path))


def toml_values(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError if it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the settings file '{path}': {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is no valid TOML: {error}.") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_mapping(typing.cast(type[Any], hint), value, where)
    if origin in (types.UnionType, typing.Union):  # X | None; with a Literal it is the older form
        return None if value is None else _convert(args[0], value, where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(str, args))}, not {value!r}.")
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(args[0], item, where) for item in value)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is not tuple else "a list"
    raise ConfigError(f"{where} must be {expected}, not {value!r}.")


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Measure a run or a model: greedy accuracy, avg@n, pass@k and maj@k, by level and subject."""

    target: str
    """Run folder, checkpoint or adapter folder, or a model: alias, OWNER/NAME, folder or GGUF file."""
    baseline: str | None = None
    """A second run or model; its paired differences on the same problems and seeds are given as well."""
    base_model: str | None = None
    """The model below an adapter folder that does not name one that is here."""
    task: str | None = None
    """What to measure on; default: the run's own task, else arithmetic."""
    split: Literal["train", "test"] = "test"
    """Which problems."""
    levels: tuple[int, ...] = ()
    """Levels to measure on; default: the run's own, else all."""
    problems: int | None = None
    """Problems a level (in all, where there are no levels); default: all."""
    samples: int = 16
    """Completions a problem, beside the greedy one."""
    k: tuple[int, ...] = ()
    """The k of pass@k and maj@k, none above samples; default: those of 1, 4, 16 and 64 that samples allows."""
    temperature: float = 0.7
    """Of the samples."""
    top_p: float = 1.0
    """Nucleus of the samples."""
    max_completion_tokens: int | None = None
    """Longest completion; default: the run's own, else by model."""
    sampling_rows: int = 256
    """Completions decoded at the same time, and written together: a kill loses at most one such wave."""
    bits: Literal[4, 16] | None = None
    """Quantisation of the base model; default: the run's own, else 4."""
    backend: Backend | None = None
    """unsloth, hf or auto, as in training; default: the run's own, else auto."""
    sampler: Sampler | None = None
    """own, native, vllm or auto, as in training; default: the run's own, else auto."""
    seed: int = 0
    """Of the samples; which problems a limit leaves does not depend on it."""
    output: Path | None = None
    """Folder for results; default: evaluation/... in the run folder, else runs/eval-..."""
    resume: bool = False
    """Go on with what the output folder already has; problems in it are not sampled again."""
    data: TaskOptions = field(default_factory=TaskOptions)

    @property
    def ks(self) -> tuple[int, ...]:
        """The k to measure, ascending."""
        return tuple(sorted(set(self.k))) or tuple(k for k in (1, 4, 16, 64) if k <= self.samples)


@dataclass(frozen=True, slots=True)
class HardConfig:
    """Find the problems that a model never solves, and write them as a data file to train on."""

    model: str | None = None
    """Alias, OWNER/NAME, folder or GGUF file; default: tiny without a GPU, qwen2.5-3b with one."""
    task: str = "arithmetic"
    """Where the problems come from."""
    split: Literal["train", "test"] = "train"
    """Which problems."""
    levels: tuple[int, ...] = ()
    """Levels to look through; default: all."""
    problems: int | None = None
    """Problems a level (in all, where there are no levels); default: all."""
    zero_of: int = 16
    """A problem is hard if none of so many completions is right."""
    temperature: float = 1.0
    """Of the completions; as in training."""
    top_p: float = 1.0
    """Nucleus of the completions."""
    max_completion_tokens: int | None = None
    """Longest completion; default by model."""
    sampling_rows: int = 256
    """Completions decoded at the same time, and written together: a kill loses at most one such wave."""
    bits: Literal[4, 16] = 4
    """Quantisation of the model."""
    backend: Backend = "auto"
    """unsloth, hf or auto, as in training."""
    sampler: Sampler = "auto"
    """own, native, vllm or auto, as in training."""
    seed: int = 0
    """Of the completions; which problems a limit leaves does not depend on it."""
    output: Path | None = None
    """Folder for the files; default: runs/hard-MODEL-TASK."""
    resume: bool = False
    """Go on with what the output folder already has."""
    data: TaskOptions = field(default_factory=TaskOptions)


@dataclass(frozen=True, slots=True)
class ExplainConfig:
    """Print self-explanations of some problems, with what becomes of each."""

    model: str | None = None
    """Alias, OWNER/NAME, folder, GGUF file, run folder or adapter; default: tiny without a GPU, qwen2.5-3b with one."""
    base_model: str | None = None
    """The model below an adapter folder that does not name one that is here."""
    task: str = "arithmetic"
    """Where the problems come from."""
    split: Literal["train", "test"] = "train"
    """Which problems."""
    levels: tuple[int, ...] = ()
    """Levels of the problems; default: the task's hardest."""
    n: int = 4
    """Problems a level (in all, where there are no levels)."""
    explanation_filter: tuple[ExplanationFilter, ...] = ("verified",)
    """What an explanation must pass: verified, lift, no-leak or none, as in training."""
    temperature: float = 1.0
    """Of the explanations; as in training."""
    top_p: float = 1.0
    """Nucleus of the explanations."""
    max_completion_tokens: int | None = None
    """Longest explanation; default: the run's own, else by model."""
    sampling_rows: int = 256
    """Completions decoded at the same time."""
    bits: Literal[4, 16] | None = None
    """Quantisation of the model; default: the run's own, else 4."""
    backend: Backend | None = None
    """unsloth, hf or auto, as in training; default: the run's own, else auto."""
    sampler: Sampler | None = None
    """own, native, vllm or auto, as in training; default: the run's own, else auto."""
    seed: int = 0
    """Of the explanations, and of which problems are taken."""
    data: TaskOptions = field(default_factory=TaskOptions)

    @property
    def problems(self) -> int:
        """`n`, by the name that the other commands have for it."""
        return self.n


@dataclass(frozen=True, slots=True)
class DiagnoseConfig:
    """Measure whether explanations are good positives for a model on a task: probable, and of use for the answer."""

    model: str | None = None
    """Alias, OWNER/NAME, folder, GGUF file, run folder or adapter; default: tiny without a GPU, qwen2.5-3b with one."""
    base_model: str | None = None
    """The model below an adapter folder that does not name one that is here."""
    task: str = "arithmetic"
    """Where the problems come from."""
    split: Literal["train", "test"] = "train"
    """Which problems."""
    levels: tuple[int, ...] = ()
    """Levels to measure; default: all."""
    problems: int = 32
    """Problems a level (in all, where there are no levels)."""
    group_size: int = 8
    """Own completions a problem, for the fraction of all-wrong groups."""
    explanation_filter: tuple[ExplanationFilter, ...] = ("verified",)
    """What an explanation must pass: verified, lift, no-leak or none, as in training."""
    temperature: float = 1.0
    """Of completions and explanations; as in training."""
    top_p: float = 1.0
    """Nucleus of completions and explanations."""
    max_completion_tokens: int | None = None
    """Longest completion; default: the run's own, else by model."""
    sampling_rows: int = 256
    """Completions decoded at the same time."""
    bits: Literal[4, 16] | None = None
    """Quantisation of the model; default: the run's own, else 4."""
    backend: Backend | None = None
    """unsloth, hf or auto, as in training; default: the run's own, else auto."""
    sampler: Sampler | None = None
    """own, native, vllm or auto, as in training; default: the run's own, else auto."""
    seed: int = 0
    """Of completions and explanations; which problems are taken does not depend on it."""
    output: Path | None = None
    """Folder for the figures and samples; default: runs/diagnose-MODEL-TASK."""
    data: TaskOptions = field(default_factory=TaskOptions)


@dataclass(frozen=True, slots=True)
class ReplicateConfig:
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    model: str | None = None
    """Alias, OWNER/NAME, folder or GGUF file; default: tiny without a GPU, qwen2.5-3b with one."""
    task: str = "arithmetic"
    """What to train on and be measured on; it must have levels."""
    plan: Path | None = None
    """TOML file with the plan; default: expo_lite/replication/replicate.toml."""
    quick: bool = False
    """The plan's quick form: one seed, fewer steps."""
    seeds: tuple[int, ...] = ()
    """Seeds of the runs; default: the plan's."""
    jobs: int | None = None
    """Runs side by side, which share the cores; default: as many as there are cores, 1 with a GPU."""
    output: Path | None = None
    """Folder for run folders and results; default: runs/replicate-MODEL-TASK."""
    resume: bool = False
    """Go on with what the output folder already has; what is finished is not run again."""


def check_replicate(config: ReplicateConfig) -> None:
    """Every rule of a replication's settings that a type alone does not hold; raises ConfigError."""
    for holds, message in (
        (config.jobs is None or config.jobs >= 1, f"jobs must be at least 1, not {config.jobs}."),
        (all(seed >= 0 for seed in config.seeds), f"no seed may be negative: {', '.join(map(str, config.seeds))}."),
        (len(set(config.seeds)) == len(config.seeds), f"seeds must differ: {', '.join(map(str, config.seeds))}."),
    ):
        if not holds:
            raise ConfigError(message)


def check_eval(config: EvalConfig) -> None:
    """Every rule of an evaluation's settings that a type alone does not hold; raises ConfigError."""
    _check_measuring(config)
    for holds, message in (
        (config.samples >= 1, f"samples must be at least 1, not {config.samples}."),
        (all(1 <= k <= config.samples for k in config.k), f"every k must be between 1 and samples ({config.samples}), not {', '.join(map(str, config.k))}."),
        (config.bits in (None, 4, 16), f"bits must be 4 or 16, not {config.bits}."),
    ):  # fmt: skip
        if not holds:
            raise ConfigError(message)


def check_hard(config: HardConfig) -> None:
    """Every rule of the hard subset's settings that a type alone does not hold; raises ConfigError."""
    _check_measuring(config)
    if config.zero_of < 1:
        raise ConfigError(f"zero_of must be at least 1, not {config.zero_of}.")


def check_explain(config: ExplainConfig) -> None:
    """Every rule of the explain command's settings that a type alone does not hold; raises ConfigError."""
    _check_measuring(config)
    _check_filter(config.explanation_filter)


def check_diagnose(config: DiagnoseConfig) -> None:
    """Every rule of a diagnosis's settings that a type alone does not hold; raises ConfigError."""
    _check_measuring(config)
    _check_filter(config.explanation_filter)
    if config.group_size < 1:
        raise ConfigError(f"group_size must be at least 1, not {config.group_size}.")


def _check_filter(filters: tuple[ExplanationFilter, ...]) -> None:
    if not filters:
        raise ConfigError("explanation_filter must not be empty; 'none' accepts every explanation.")
    if "none" in filters and len(filters) > 1:
        raise ConfigError("explanation_filter 'none' cannot be combined with another filter.")


def _check_measuring(config: EvalConfig | HardConfig | ExplainConfig | DiagnoseConfig) -> None:
    longest = config.max_completion_tokens
    for holds, message in (
        (config.split in ("train", "test"), f"split must be train or test, not {config.split}."),
        (config.problems is None or config.problems >= 1, f"problems must be at least 1, not {config.problems}; leave it out for all."),
        (positive(config.temperature), f"temperature must be above 0, not {config.temperature}; greedy decoding is measured anyway by eval."),
        (0 < config.top_p <= 1, f"top_p must be above 0 and at most 1, not {config.top_p}."),
        (longest is None or longest >= 1, f"max_completion_tokens must be at least 1, not {longest}."),
        (config.sampling_rows >= 1, f"sampling_rows must be at least 1, not {config.sampling_rows}."),
        (config.seed >= 0, f"seed must not be negative, not {config.seed}."),
        *_backend_rules(config.backend, config.sampler),
    ):  # fmt: skip
        if not holds:
            raise ConfigError(message)


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """What a training run will hold in memory, by part and phase, and the settings that fit."""

    model: str | None = None
    """Alias, OWNER/NAME in the hub's cache, folder or GGUF file, or all: every alias; default as for train."""
    vram: tuple[float, ...] = ()
    """Memory of the GPU in GiB; several compare sizes. Default: this machine's GPU, else its main memory."""
    group_size: int = 8
    """Completions a problem (G)."""
    max_completion_tokens: int | None = None
    """Longest completion; default by model."""
    prompt_tokens: int = 512
    """Longest prompt, that of an explanation included."""
    bits: Literal[4, 16] = 4
    """Quantisation of the base model."""
    lora_rank: int = 16
    """Rank of the adapter."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """As for train."""
    sampler: Literal["own", "vllm"] = "own"
    """vllm: count its cache and workspace, which stay in memory while training."""
    micro_batch_tokens: int | None = None
    """Take this instead of choosing."""
    sampling_rows: int | None = None
    """Take this instead of choosing."""
    largest: bool = False
    """Only the longest completion that fits, of each model and size."""
    markdown: bool = False
    """Print the comparison as a Markdown table."""
    json: bool = False
    """Print JSON."""


def check_plan(config: PlanConfig) -> None:
    """Every rule of a plan's settings that a type alone does not hold; raises ConfigError."""
    numbers = (
        "group_size",
        "max_completion_tokens",
        "prompt_tokens",
        "lora_rank",
        "micro_batch_tokens",
        "sampling_rows",
    )
    for name in numbers:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}.")
    for gib in config.vram:
        if not positive(gib):
            raise ConfigError(f"vram must be above 0, not {gib}; it is in GiB, as in --vram 24.")
