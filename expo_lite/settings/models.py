"""Model names people type, and what they stand for."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expo_lite.errors import ConfigError

ASSETS = Path(__file__).parents[1] / "assets"
SKELETON = "skeleton"
"""The explanation prompt of ours that `explanation_prompt` names in place of a file."""


def prompt_file(given: Path | None) -> Path | None:
    """Return the file of an explanation prompt; ours for the name of ours."""
    return ASSETS / "skeleton.txt" if str(given) == SKELETON else given


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model by what sets its layers apart from Llama's, where its configuration does not say so itself."""

    norms: tuple[str, str, str, str] = ("input_layernorm", "", "post_attention_layernorm", "")
    """Names of the norms before and after the attention, before and after the MLP; empty where there is none."""
    head_norms: Literal["", "each", "joint"] = ""
    """Norms of queries and keys: of each head, or of all heads together."""
    biased: bool = False
    """The query, key and value projections have biases, whatever the configuration says."""
    gemma: bool = False
    """Norms multiply by 1 + weight, and embeddings are scaled by the root of their width."""
    windowed: bool = False
    """The configuration's sliding window, if any, is that of all layers, and none of them says so."""
    gguf: str = ""
    """Its architecture's name in GGUF files; empty if none are written."""


_AFTER = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
_FOUR = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
FAMILIES = {
    "llama": Family(gguf="llama"),
    "mistral": Family(windowed=True),
    "ministral": Family(),
    "ministral3": Family(windowed=True),
    "smollm3": Family(),
    "granite": Family(),
    "qwen2": Family(biased=True, gguf="qwen2"),
    "qwen3": Family(head_norms="each", gguf="qwen3"),
    "olmo2": Family(_AFTER, head_norms="joint"),
    "olmo3": Family(_AFTER, head_norms="joint"),
    "gemma": Family(gemma=True),
    "gemma3_text": Family(_FOUR, head_norms="each", gemma=True, gguf="gemma3"),
}
"""Model types that our decoder samples, whose completions share their prompt when scored, and whose memory is planned.
Windows, rotations and scales are read from the configuration. All their attention is in transformers' interface."""
COUNTED = {name for name, family in FAMILIES.items() if family.norms == Family().norms and not family.gemma}
"""Families whose layers' activations the memory plan counts one by one: Llama's."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The place of a model, and the settings that follow from its size; the defaults are for models without an alias."""

    source: str
    parameters: str
    license: str
    steps: int = 300
    learning_rate: float = 1e-5
    dpo_learning_rate: float = 5e-6
    """Rates that others use for LoRA and DPO, at 0.5B (TRL, trl/scripts/dpo.py: 5e-6 with LoRA, 5e-7 without) and at 7B in
    four bits (alignment-handbook, recipes/zephyr-7b-beta/dpo/config_qlora.yaml: 5e-6). SmolLM2 was tuned in full at 1e-6
    (recipes/smollm2/dpo/config_smol.yaml), and LoRA takes about ten times that in TRL's example. Not measured here."""
    max_completion_tokens: int = 1024


PRESETS = {
    "tiny": Preset(str(ASSETS / "tiny"), "0.9M", "Apache-2.0", steps=100, learning_rate=1e-3, dpo_learning_rate=1e-4, max_completion_tokens=64),
    "smollm2-135m": Preset("HuggingFaceTB/SmolLM2-135M-Instruct", "135M", "Apache-2.0", learning_rate=1e-4, dpo_learning_rate=1e-5, max_completion_tokens=512),
    "smollm2-360m": Preset("HuggingFaceTB/SmolLM2-360M-Instruct", "360M", "Apache-2.0", learning_rate=5e-5, dpo_learning_rate=1e-5, max_completion_tokens=512),
    "qwen2.5-0.5b": Preset("Qwen/Qwen2.5-0.5B-Instruct", "0.5B", "Apache-2.0", learning_rate=2e-5),
    "qwen2.5-1.5b": Preset("Qwen/Qwen2.5-1.5B-Instruct", "1.5B", "Apache-2.0"),
    "qwen2.5-3b": Preset("Qwen/Qwen2.5-3B-Instruct", "3.1B", "Qwen Research License"),
    "qwen2.5-7b": Preset("Qwen/Qwen2.5-7B-Instruct", "7.6B", "Apache-2.0"),
    "qwen3-0.6b": Preset("Qwen/Qwen3-0.6B", "0.6B", "Apache-2.0", learning_rate=2e-5),
    "qwen3-1.7b": Preset("Qwen/Qwen3-1.7B", "1.7B", "Apache-2.0"),
    "qwen3-4b": Preset("Qwen/Qwen3-4B", "4.0B", "Apache-2.0"),
    "qwen3-4b-2507": Preset("Qwen/Qwen3-4B-Instruct-2507", "4.0B", "Apache-2.0"),
    "qwen3.5-0.8b": Preset("Qwen/Qwen3.5-0.8B", "0.8B", "Apache-2.0", learning_rate=2e-5),
    "qwen3.5-2b": Preset("Qwen/Qwen3.5-2B", "1.9B", "Apache-2.0"),
    "qwen3.5-4b": Preset("Qwen/Qwen3.5-4B", "4.2B", "Apache-2.0"),
    "qwen3.5-9b": Preset("Qwen/Qwen3.5-9B", "9.0B", "Apache-2.0"),
    "llama-3.2-1b": Preset("meta-llama/Llama-3.2-1B-Instruct", "1.2B", "Llama 3.2 Community License"),
    "llama-3.2-3b": Preset("meta-llama/Llama-3.2-3B-Instruct", "3.2B", "Llama 3.2 Community License"),
    "llama-3.1-8b": Preset("meta-llama/Llama-3.1-8B-Instruct", "8.0B", "Llama 3.1 Community License"),
    "gemma-3-270m": Preset("google/gemma-3-270m-it", "268M", "Gemma Terms of Use", learning_rate=5e-5, dpo_learning_rate=1e-5, max_completion_tokens=512),
    "gemma-3-1b": Preset("google/gemma-3-1b-it", "1.0B", "Gemma Terms of Use"),
    "gemma-3-4b": Preset("google/gemma-3-4b-it", "3.9B", "Gemma Terms of Use"),
    "gemma-4-e2b": Preset("google/gemma-4-E2B-it", "4.6B", "Apache-2.0"),
    "gemma-4-e4b": Preset("google/gemma-4-E4B-it", "7.5B", "Apache-2.0"),
    "ministral-3-3b": Preset("mistralai/Ministral-3-3B-Instruct-2512-BF16", "3.4B", "Apache-2.0"),
    "ministral-3-8b": Preset("mistralai/Ministral-3-8B-Instruct-2512-BF16", "8.5B", "Apache-2.0"),
    "smollm3-3b": Preset("HuggingFaceTB/SmolLM3-3B", "3.1B", "Apache-2.0"),
    "phi-4-mini": Preset("microsoft/Phi-4-mini-instruct", "3.8B", "MIT"),
}  # fmt: skip
TINY = PRESETS["tiny"]


def find_model(name: str, revision: str | None = None) -> Preset:
    """Find what a model name stands for: an alias, OWNER/NAME on the hub, a local folder, or a GGUF file.

    Raises:
        ConfigError: the name is not one of these, and the nearest alias is suggested; a folder has GGUF files alone; or
            a revision is given of what is not on the hub.
    """
    path = Path(name).expanduser()
    local = name not in PRESETS and path.exists()
    if revision is not None and (local or PRESETS.get(name) is TINY):
        raise ConfigError(f"--revision does nothing for '{name}', which is no model of the hub. Leave it out.")
    if name in PRESETS:
        return PRESETS[name]
    if local:
        if not (path / "config.json").exists() and (files := sorted(path.glob("*.gguf"))):
            raise ConfigError(f"'{name}' is a folder with GGUF files. Give the file itself, such as '{files[0]}'.")
        return Preset(str(path), "", "")
    if name.endswith(".gguf"):
        raise ConfigError(f"There is no GGUF file at '{name}'. Give the path of an existing file.")
    first, *others = path.parts or ("",)
    if others and (first == "runs" or name.startswith((".", "/", "~")) or Path(first).is_dir()):
        raise ConfigError(f"There is no run, adapter or model at '{name}'.")
    if name.count("/") == 1:
        return Preset(name, "", "")
    raise ConfigError(
        f"Unknown model '{name}'.{suggestion(name, PRESETS)} Give an alias (`expo-lite models` lists them), "
        "OWNER/NAME of a model hub, a local folder or a GGUF file."
    )


def suggestion(given: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' if one of the known names is near the given one, else ''."""
    nearest = difflib.get_close_matches(given.lower(), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
