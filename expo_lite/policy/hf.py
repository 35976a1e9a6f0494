"""The policy on transformers, peft and bitsandbytes. Tested in fp32 on a CPU; not yet run on a GPU."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import get_peft_model

from expo_lite.policy import attention, merged
from expo_lite.policy.batching import MicroBatch
from expo_lite.policy.dense import checkpoint_contexts, kept_products, use_lean_projections
from expo_lite.policy.device import find_device
from expo_lite.policy.load import load_base
from expo_lite.policy.lora import LoraPolicy, lora_config
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import find_model


class HfPolicy(LoraPolicy):
    """A transformers causal language model in four bits (or none) with a LoRA adapter."""

    def __init__(self, name: str, config: PolicyConfig, *, seed: int, adapter: Path | None = None) -> None:
        """Load the base model and put a fresh adapter on it, or the one in the folder `adapter`.

        Args:
            name: an alias, OWNER/NAME, a local folder or a GGUF file.
            config: revision, bits, LoRA targets, rank and scale, sampler.
            seed: seed of the fresh adapter's A matrices (B starts at 0).
            adapter: folder of an adapter to continue from.

        Raises:
            ConfigError: torch cannot use the GPU.
            ModelError: the model cannot be found, read, trained, or decoded by the sampler asked for.
        """
        device = find_device()
        base, tokenizer = load_base(find_model(name, config.revision).source, name, config, device)
        base.requires_grad_(False)
        base.config.use_cache = False
        if merged.is_packable(base.config):
            base.set_attn_implementation(attention.NAME)  # it leaves out what others add, such as caps and sinks
        base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_contexts})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(base, lora_config(config, adapter, base))
        super().__init__(name, model, tokenizer, device, sampler=config.sampler)
        use_lean_projections(self.base_model)
        if adapter is not None:
            self.load_adapter(adapter)

    @contextlib.contextmanager
    def _scoring(self, batch: MicroBatch, gradient: bool) -> Iterator[None]:
        keeps = self.keeps if gradient else "inputs"  # without a gradient there is no backward pass
        for module in self.base_model.modules():
            if hasattr(module, "gradient_checkpointing"):  # it can be computed twice
                module.gradient_checkpointing = keeps != "activations"
        with kept_products(keeps == "products"), super()._scoring(batch, gradient):
            yield
