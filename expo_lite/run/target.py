"""The target that a RUN or MODEL names: a base model, perhaps with an adapter and the run that made it."""

import filecmp
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.prompts import TEMPLATE, read_prompts
from expo_lite.records import Prompts, SamplingParams
from expo_lite.run.checkpoint import damage, newest_whole
from expo_lite.run.folder import ADAPTER_FILES, RunFolder, read_config
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.measuring import MeasuringConfig
from expo_lite.settings.models import PRESETS, find_model
from expo_lite.settings.schema import typed
from expo_lite.settings.train import RunConfig, TrainConfig, resolve

ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_NOTE = ADAPTER_FILES
TOKENIZER_CONFIG = "tokenizer_config.json"
SHAPE = ("r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
         "rank_pattern", "alpha_pattern")  # fmt: skip
"""The fields of an adapter's configuration that say which factors there are, and what they are multiplied by."""
_IDLE = {"base_model_name_or_path", "revision", "lora_dropout", "auto_mapping", "peft_version", "inference_mode",
         "fan_in_fan_out", "megatron_core", "qalora_group_size", "ensure_weight_tying", "eva_config", "corda_config",
         "loftq_config", "lora_ga_config"}  # fmt: skip
"""Fields that change nothing of what the weights mean, or count only with one that is refused."""
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
"""The values with which an adapter is W + scale B A; pissa, olora and others take a part out of the base model."""
_NEUTRAL: tuple[Any, ...] = (None, False, "none", {}, [])
"""The values of all other fields, such as use_dora, bias and modules_to_save."""
_NO_LAYERS = ("lm_head", "embed_tokens")
"""Targets that are never part of a layer; those of other names are compared with the model when it is loaded."""


@dataclass(frozen=True, slots=True)
class Target:
    """A policy that can be loaded: `load_policy(model, policy, seed=0, adapter=adapter)`.

    `run` is the folder of the run that the adapter belongs to and `config` its settings; None for other adapters and
    models.
    """

    model: str
    policy: PolicyConfig
    adapter: Path | None = None
    run: Path | None = None
    config: RunConfig | None = None
    trained_bits: Literal[4, 16] | None = None
    """Bits of the base that the adapter was trained on; None if nothing says so."""

    @property
    def other_bits(self) -> str:
        """Say that the adapter's base is not as precise as in its training, or may not be; '' if it is."""
        if self.adapter is None or self.policy.bits == self.trained_bits:
            return ""
        trained = f"was trained on {self.trained_bits} bits" if self.trained_bits else "does not say its base's bits"
        return f"the adapter in '{self.adapter}' {trained}, and its base is loaded in {self.policy.bits} (--bits)"

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        if self.run and self.adapter:
            return f"{self.run.name}-{self.adapter.name}"
        return (self.adapter or Path(self.model.rstrip("/"))).name

    @property
    def max_completion_tokens(self) -> int:
        """The default length of completions: the run's own, else by model."""
        if self.config:
            return self.config.sampling.max_completion_tokens
        return find_model(self.model).max_completion_tokens

    @property
    def adapter_sha256(self) -> str | None:
        """The SHA-256 of the adapter's weights; None without an adapter."""
        return _sha256(self.adapter / ADAPTER_WEIGHTS) if self.adapter else None

    @property
    def prompts(self) -> Prompts:
        """The run's own prompts."""
        return RunFolder(self.run).prompts() if self.run else Prompts()

    def identity(self) -> dict[str, Any]:
        """Everything of the policy that samples depend on, as JSON values; the adapter by its bytes."""
        policy, file = self.policy, self.policy.chat_template
        return {
            "model": self.model,
            "bits": policy.bits,
            "backend": policy.backend,
            "sampler": policy.sampler,
            "revision": policy.revision,
            "adapter_sha256": self.adapter_sha256,
            "thinking": None if policy.thinking == "auto" else policy.thinking,
            "chat_template": _sha256(file) if file and file.is_file() else file and str(file),
        }


def resolve_run(config: TrainConfig) -> RunConfig:
    """Resolve the settings of a run that starts from a model or from a trained adapter.

    A resumed run takes the adapter that its own folder has kept, whatever has become of the original.

    Raises:
        CheckpointError: the adapter to start from is damaged or of an unknown kind.
        ConfigError: a setting is wrong, or is not that of the adapter.
    """
    config = typed(config)
    if not config.model:
        return resolve(config)
    path = Path(config.model).expanduser().absolute()
    if config.resume and config.output and (config.output / "config.json").exists():
        kept = read_config(config.output)
        if kept.start_from == path:
            own = {name: value for name, value in asdict(kept.policy).items() if name not in ("backend", "sampler")}
            _refuse_others(config, own, kept.output)
            policy = replace(kept.policy, backend=config.policy.backend, sampler=config.policy.sampler)
            same = resolve(replace(config, model=kept.model, policy=policy))
            return replace(same, start_from=kept.start_from, start_sha256=kept.start_sha256)
    refuse_several(path)
    if not ((path / "checkpoints").is_dir() or (path / ADAPTER_CONFIG).is_file()):
        return resolve(config)
    target = find_target(str(path), bits=config.policy.bits)
    shape = {name: getattr(target.policy, name) for name in ("lora_targets", "lora_rank", "lora_alpha")}
    if target.policy.revision:
        shape["revision"] = target.policy.revision
    _refuse_others(config, shape, target.adapter)
    template = config.policy.chat_template or target.policy.chat_template
    policy = replace(config.policy, bits=target.policy.bits, **shape, chat_template=template)
    resolved = resolve(replace(config, model=target.model, policy=policy))
    return replace(resolved, start_from=path, start_sha256=target.adapter_sha256)


def _refuse_others(config: TrainConfig, own: Mapping[str, Any], where: Path | None) -> None:
    """Raise ConfigError for a given setting of the policy that is not the adapter's own."""
    for name, value in own.items():
        given = getattr(config.policy, name)
        if given not in (value, getattr(PolicyConfig(), name)):
            raise ConfigError(
                f"{name} is {given}, but the adapter in '{where}' has {value}. "
                f"Leave --{name.replace('_', '-')} out: a run goes on with the adapter that it starts from."
            )


def starting_adapter(config: RunConfig, run: RunFolder | None = None) -> Path | None:
    """Find the adapter that a run begins with: its own copy, once it has one; None for the base model."""
    if config.start_from is None:
        return None
    if run and run.start.exists():
        return run.start
    found = find_target(str(config.start_from))
    if found.adapter_sha256 != config.start_sha256:
        raise CheckpointError(
            f"The adapter in '{config.start_from}' has changed since these runs were planned. Begin anew."
        )
    return found.adapter


def policy_settings(config: RunConfig, run: RunFolder) -> PolicyConfig:
    """The settings to load a run's policy with: with its own copy of the chat template, once it has one."""
    return replace(config.policy, chat_template=run.chat_template) if run.chat_template.exists() else config.policy


def run_prompts(config: RunConfig, folder: RunFolder, warn: Callable[[str], None]) -> Prompts:
    """Read the user's own prompts; a resumed run keeps its own copies, whatever the files say now."""
    read = list(config.prompt_files)
    for place, (path, kept) in enumerate(zip(config.prompt_files, folder.prompt_files, strict=True)):
        if path is not None and config.resume and kept.exists():
            read[place] = kept
            if not path.is_file() or not filecmp.cmp(path, kept, shallow=False):
                warn(f"'{path}' is not what it was: the run goes on with its own copy, '{kept}'")
    if config.start_from is not None and not config.resume:
        started = find_target(str(config.start_from), bits=config.policy.bits)
        if started.other_bits:
            warn(started.other_bits)
        if config.question_prompt is None and started.run is not None and started.prompts.question is not None:
            prompt = RunFolder(started.run).prompt_files[0]
            warn(f"'{config.start_from}' was asked in other words: --question-prompt {prompt} keeps them")
    return read_prompts(*read)


def find_target(target: str, **asked: Any) -> Target:
    """Find a run folder (its newest whole checkpoint), a checkpoint or adapter folder, or a model.

    Args:
        target: as typed.
        **asked: settings of the policy that are not None: bits, revision, trust_remote_code, backend, sampler,
            thinking, chat_template. Default: those of the run, and the bits that the adapter was trained on, else 4.

    Raises:
        CheckpointError: the run has no whole checkpoint, or the adapter is damaged or of an unknown kind.
        ConfigError: there is no such run, adapter or model.
    """
    path = Path(target).expanduser()
    if (path / "checkpoints").is_dir():
        checkpoint, damaged = newest_whole(path / "checkpoints")
        if checkpoint is None:
            raise CheckpointError(f"The run '{path}' has no whole checkpoint. {' '.join(damaged)}".strip())
        found = _adapter(checkpoint)
    elif (path / ADAPTER_CONFIG).is_file():
        found = _adapter(path)
    else:
        refuse_several(path)
        found = Target(target, PolicyConfig())
    find_model(found.model, asked.get("revision"))
    given = {"bits": found.trained_bits or 4} | {name: value for name, value in asked.items() if value is not None}
    return replace(found, policy=replace(found.policy, **given))


def as_it_is(target: Target, bits: Literal[4, 16] | None = None) -> Target:
    """Return the target with 16 bits, unless others are asked for or its adapter was trained on others."""
    return replace(target, policy=replace(target.policy, bits=bits or target.trained_bits or 16))


def params_of(settings: MeasuringConfig, target: Target) -> SamplingParams:
    """Sampling parameters of a measuring command; by default completions are as long as the run's own."""
    tokens = settings.max_completion_tokens or target.max_completion_tokens
    return SamplingParams(settings.temperature, tokens, settings.top_p, settings.sampling_rows)


def refuse_several(path: Path) -> None:
    """Raise ConfigError for a folder of runs, such as a sweep's."""
    if not path.is_dir() or (path / "config.json").exists():
        return
    runs = sorted(found.parent for part in ("*", "runs/*") for found in path.glob(f"{part}/checkpoints"))
    if runs:
        raise ConfigError(f"'{path}' is no run itself, but holds {len(runs)}. Give one of them, such as '{runs[0]}'.")


def _adapter(folder: Path) -> Target:
    if (folder / "state.json").exists() and (problem := damage(folder)):
        raise CheckpointError(f"The checkpoint '{folder}' is damaged: {problem}.")
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        named, revision = str(settings["base_model_name_or_path"]), settings.get("revision")
        modules = settings.get("target_modules") or ()
        targets = {str(name).rpartition(".")[2] for name in ([modules] if isinstance(modules, str) else modules)}
        note = folder / ADAPTER_NOTE
        policy = PolicyConfig(
            revision=None if Path(named).exists() else revision,
            bits=json.loads(note.read_text(encoding="utf-8"))["bits"] if note.exists() else None,
            lora_targets=tuple(sorted(targets)),
            lora_rank=int(settings["r"]),
            lora_alpha=int(settings["lora_alpha"]),
        )
        typed(policy)
        used = ", ".join(_unsupported(settings, targets))
    except ConfigError as error:
        raise CheckpointError(f"'{folder / ADAPTER_CONFIG}' cannot be used: {error}") from error
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{folder / ADAPTER_CONFIG}' is not a LoRA adapter's configuration.") from error
    what = "" if (folder / ADAPTER_WEIGHTS).is_file() else f"has no {ADAPTER_WEIGHTS}"
    if used:
        what = f"uses {used}, which is not supported; peft can merge it into its base (merge_and_unload)"
    if what:
        raise CheckpointError(f"The adapter in '{folder}' {what}.")
    above = folder.absolute().parent
    run = above.parent if above.name == "checkpoints" and RunFolder(above.parent).config_file.exists() else None
    config = read_config(run) if run else None
    preset = next((alias for alias, preset in PRESETS.items() if preset.source == named), named)
    model = config.model if config else preset
    try:
        find_model(model)
    except ConfigError as error:
        raise ConfigError(
            f"The adapter in '{folder}' was made for '{model}', which is not here. Correct {ADAPTER_CONFIG}."
        ) from error
    if config:
        policy = replace(config.policy, bits=config.policy.bits or 4, trust_remote_code=False)
    own = next((folder / name for name in (TEMPLATE, TOKENIZER_CONFIG) if _has_template(folder / name)), None)
    policy = replace(policy, chat_template=own or policy.chat_template)
    return Target(model, policy, folder, run, config, policy.bits)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _has_template(file: Path) -> bool:
    return file.is_file() and (file.name == TEMPLATE or '"chat_template"' in file.read_text(encoding="utf-8"))


def _unsupported(settings: dict[str, Any], targets: set[str]) -> list[str]:
    """Name whatever makes of an adapter something else than W + scale B A on projections of ours."""
    others = {name: value for name, value in settings.items() if name not in _IDLE.union(SHAPE)}
    used = [f"{name}={value!r}" for name, value in others.items() if value not in _SUPPORTED.get(name, _NEUTRAL)]
    wrong = sorted(name for name in targets if name in _NO_LAYERS or not name.isidentifier())
    return used + [f"target_modules={name!r}" for name in wrong]
