"""Load a policy on a backend; nothing heavy is imported before the backend is chosen."""

import sys
from pathlib import Path

from expo_lite.errors import ModelError
from expo_lite.policy.base import Policy
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.machine import check_backend, importing, takes_unsloth
from expo_lite.settings.schema import typed


def load_policy(name: str, config: PolicyConfig, *, seed: int, adapter: Path | None = None) -> Policy:
    """Load a model on the backend that the settings ask for, with a fresh adapter or the one in the folder `adapter`.

    Args:
        name: an alias, OWNER/NAME, a local folder or a GGUF file.
        config: backend, sampler, bits, LoRA rank and scale.
        seed: seed of the fresh adapter.
        adapter: folder of an adapter to continue from.

    Raises:
        ConfigError: the backend is not installed, or torch cannot use the GPU.
        ModelError: the model cannot be found, read or held in memory, or it is too late to import Unsloth.
    """
    config = typed(config)
    check_backend(config.backend)
    if not takes_unsloth(config.backend):
        with importing("peft"):
            from expo_lite.policy.hf import HfPolicy

        return HfPolicy(name, config, seed=seed, adapter=adapter)
    late = sorted({"transformers", "peft", "trl"} & set(sys.modules))
    if late and "unsloth" not in sys.modules:
        # it patches these when it is imported; code that was imported before stays slow, or half patched
        raise ModelError(
            f"Unsloth must be imported before {', '.join(late)}. Start a new process (`expo-lite` does), "
            "or take backend 'hf'."
        )
    with importing("unsloth"):
        from expo_lite.policy.unsloth import UnslothPolicy

    return UnslothPolicy(name, config, seed=seed, adapter=adapter)
