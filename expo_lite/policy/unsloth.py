"""The Unsloth policy: its four-bit base, LoRA, checkpointing and fast inference. Unsloth must be imported first.

Our decoder, `--sampler own`, samples from the weights that Unsloth has loaded.

The tests run this file on Unsloth's CPU backend, except for the GPU branches, and check every argument against the
signatures of its GPU code. None of this has run on a GPU yet.

Unsloth has four traps, closed here. It may load another model of the same name (`use_exact_model_name`). It cuts rows
that are longer than the context: they are refused. It forgets the choice of checkpointing: it is given at every switch
of modes, once a step. It sets its own padding on the tokenizer: we load ours.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"  # it would report this run to a server
with contextlib.redirect_stdout(sys.stderr):  # it prints a banner to stdout, where our tables go
    import unsloth  # noqa: F401 (before transformers and peft, which it patches)
    from unsloth import FastLanguageModel

from peft import LoraConfig
from transformers import AutoConfig

from expo_lite.errors import ModelError
from expo_lite.policy.batching import MicroBatch
from expo_lite.policy.device import compute_type, find_device
from expo_lite.policy.gguf_tokenizer import read_tokenizer
from expo_lite.policy.load import load_base, plain_weights
from expo_lite.policy.lora import LoraPolicy, lora_config
from expo_lite.policy.slots import Sampled
from expo_lite.records import SampleRequest, SamplingParams
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import find_model

CHECKPOINTING: Literal["unsloth", False] = "unsloth"
"""Recompute activations in the backward pass, and keep what is kept in main memory."""


class UnslothPolicy(LoraPolicy):
    """A causal language model loaded and run by Unsloth, with its LoRA adapter."""

    def __init__(self, name: str, config: PolicyConfig, *, seed: int, adapter: Path | None = None) -> None:
        """Load the base model and put a fresh adapter on it, or the one in the folder `adapter`.

        Args:
            name: an alias, OWNER/NAME, a local folder or a GGUF file.
            config: revision, bits, LoRA targets, rank and scale, sampler.
            seed: seed of the fresh adapter's A matrices (B starts at 0).
            adapter: folder of an adapter to continue from.

        Raises:
            ConfigError: torch cannot use the GPU.
            ModelError: the model cannot be found, read, held in memory, trained or decoded.
        """
        device = find_device()
        with torch.random.fork_rng(), contextlib.redirect_stdout(sys.stderr):
            base, tokenizer = load_base(find_model(name, config.revision).source, name, config, device, read=_read)
            base.requires_grad_(False)
            model = FastLanguageModel.get_peft_model(base, **lora_arguments(lora_config(config, adapter, base), seed))
        model.peft_config["default"].revision = base.config._commit_hash
        super().__init__(name, model, tokenizer, device, sampler=config.sampler)
        if adapter is not None:
            self.load_adapter(adapter)

    @contextlib.contextmanager
    def _scoring(self, batch: MicroBatch, gradient: bool) -> Iterator[None]:
        self._fits(batch.input_ids_BT.shape[1], "A row")
        # Unsloth's kernels and its generate expect mixed precision
        mixed = torch.autocast(self.device.type, dtype=compute_type(self.device), enabled=self.device.type == "cuda")
        with mixed, super()._scoring(batch, gradient):
            yield

    def _sample(self, requests: Sequence[SampleRequest], params: SamplingParams, seed: int) -> list[list[Sampled]]:
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        self._fits(longest + params.max_completion_tokens, "The longest prompt with max_completion_tokens")
        return super()._sample(requests, params, seed)

    def _fits(self, n_tokens: int, what: str) -> None:
        limit = self.base_model.config.max_position_embeddings
        if n_tokens > limit:
            raise ModelError(
                f"{what} is {n_tokens:,} tokens long, and the context of '{self.name}' has {limit:,}: "
                "Unsloth would cut it short. Lower --max-completion-tokens."
            )

    def _switch(self, *, training: bool) -> None:
        if training:
            FastLanguageModel.for_training(self._peft, use_gradient_checkpointing=CHECKPOINTING)
        else:
            FastLanguageModel.for_inference(self._peft)


def _read(source: str, config: PolicyConfig, device: torch.device) -> tuple[Any, set[str]]:
    with plain_weights(source) as (folder, missing):
        if folder != source:
            read_tokenizer(Path(source), source).save_pretrained(folder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
        about = AutoConfig.from_pretrained(folder, **options)
        if about.get_text_config() is not about:
            raise ModelError("Unsloth loads all of a model that also sees or hears: take --backend hf.")
        limit = about.max_position_embeddings
        model, _ = FastLanguageModel.from_pretrained(**load_arguments(folder, config, device, limit))
        return model, missing  # without Unsloth's tokenizer: it may have another padding token and padding side


def load_arguments(folder: str, config: PolicyConfig, device: torch.device, limit: int) -> dict[str, Any]:
    """Arguments of `FastLanguageModel.from_pretrained`; `limit` is the longest row in tokens."""
    return {
        "model_name": folder,
        "max_seq_length": limit,
        "dtype": compute_type(device),
        "load_in_4bit": config.bits != 16,
        "load_in_16bit": config.bits == 16,
        "use_gradient_checkpointing": CHECKPOINTING,
        "use_exact_model_name": True,
        "offload_embedding": False,
        "local_files_only": True,
        "trust_remote_code": config.trust_remote_code,
    }


def lora_arguments(lora: LoraConfig, seed: int) -> dict[str, Any]:
    """Arguments of `FastLanguageModel.get_peft_model`; its kernels need dropout 0 and no bias.

    Raises:
        ModelError: Unsloth has no such adapter.
    """
    for name in ("exclude_modules", "layers_to_transform", "rank_pattern", "alpha_pattern"):
        if getattr(lora, name) not in (None, {}):
            raise ModelError(f"Unsloth has no {name}, which the adapter uses: take --backend hf.")
    return {
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "target_modules": sorted(lora.target_modules or ()),
        "use_rslora": lora.use_rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_gradient_checkpointing": CHECKPOINTING,
        "random_state": seed,
    }
