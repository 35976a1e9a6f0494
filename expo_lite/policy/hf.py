"""The transformers + peft + bitsandbytes policy; runs on a GPU and, in fp32, on a CPU.

What has run where: everything in this file runs in the tests on a CPU. Nothing of it has yet been run on a GPU.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from expo_lite.batching import MicroBatch
from expo_lite.config import PolicyConfig
from expo_lite.errors import CheckpointError
from expo_lite.policy import attention, sampler, scoring
from expo_lite.policy.dense import checkpoint_contexts, dense_weights, kept_products, product_bytes, use_lean_projections
from expo_lite.policy.load import PROJECTIONS, first_line, load_base
from expo_lite.presets import find_model
from expo_lite.records import Completion, SampleRequest, SamplingParams

END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>")
"""Tokens that end an assistant's turn in the chat templates of the aliases; each counts where the tokenizer has it."""
KEPT_PRODUCTS_BYTES = 512 * 2**20
"""On a CPU, micro-batches whose matrix products fit in this are not computed a second time in the backward pass."""


class HfPolicy:
    """A transformers causal language model in four bits (or none) with a LoRA adapter."""

    def __init__(self, name: str, config: PolicyConfig, *, seed: int, adapter: Path | None = None) -> None:
        """Load the base model and put a fresh adapter on it, or the one in the folder `adapter`.

        Args:
            name: an alias, OWNER/NAME, a local folder or a GGUF file.
            config: bits, LoRA rank and scale, gradient checkpointing.
            seed: of the fresh adapter's A matrices (B starts at 0).
            adapter: a folder with an adapter to go on from.

        Raises:
            ModelError: the model cannot be found or read, or has no chat template or sliding-window attention.
        """
        self.name = name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base, self.tokenizer = load_base(find_model(name).source, name, config, self.device)
        base.requires_grad_(False)
        base.config.use_cache = False
        base.set_attn_implementation(attention.NAME)
        if config.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_contexts})
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=PROJECTIONS, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._peft: PeftModel = get_peft_model(base, lora)
        self._model: Any = self._peft.get_base_model()
        self._product_bytes = product_bytes(self._model)
        if self.device.type == "cpu":
            use_lean_projections(self._model)
        self.eos_ids = _eos_ids(self.tokenizer, base)
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_ids[0]
        self.end_id = _end_id(self.tokenizer, self.eos_ids)
        if adapter is not None:
            self.load_adapter(adapter)

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        """Sample completions, one tuple a request, in order."""
        self._peft.eval()
        with dense_weights(self._model) if self.device.type == "cpu" else contextlib.nullcontext():
            sampled = sampler.sample(self._model, requests, params, seed=seed, eos_ids=self.eos_ids, pad_id=self.pad_id)
        return [
            tuple(sampler.to_completion(request.prompt_ids, row, self.tokenizer) for row in rows)
            for request, rows in zip(requests, sampled, strict=True)
        ]

    def logprobs(self, batch: MicroBatch, *, temperature: float) -> torch.Tensor:
        """Log-probabilities [N] of the batch's completion tokens, with a gradient to the adapter.

        Always in train mode and with gradients on, for reference values too: bitsandbytes takes another kernel without.
        """
        self._peft.train()
        fits = batch.input_ids_BT.numel() * self._product_bytes <= KEPT_PRODUCTS_BYTES
        with torch.enable_grad(), kept_products(fits):
            return scoring.score(self._model, batch, temperature=temperature)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapter off for a while."""
        with self._peft.disable_adapter():
            yield

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by name."""
        return {name: p for name, p in self._peft.named_parameters() if p.requires_grad}

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in peft's layout."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft looks the base model up on the hub, and warns that it cannot
            self._peft.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card

    def load_adapter(self, folder: Path) -> None:
        """Take the adapter's weights from a folder.

        Raises:
            CheckpointError: the folder has no readable adapter, or one of another shape.
        """
        try:
            weights = load_file(folder / "adapter_model.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"The adapter in '{folder}' cannot be read: {first_line(error)}") from error
        own = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        if _shapes(weights) != _shapes(own):
            raise CheckpointError(f"The adapter in '{folder}' was made for another model or LoRA rank.")
        set_peft_model_state_dict(self._peft, weights)


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _eos_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Every token that ends a turn: what model and tokenizer say, and the chat end tokens that the tokenizer has.

    Tokenizers read from GGUF files may name the wrong one, so theirs alone is not enough.
    """
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[token] for token in END_TOKENS if token in vocabulary}
    for ids in (tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)):
        found |= set(ids) if isinstance(ids, list) else {ids} if ids is not None else set()
    found -= {vocabulary[token] for token in ("<|im_start|>", "<|start_header_id|>") if token in vocabulary}
    return tuple(sorted(found))


def _end_id(tokenizer: Any, eos_ids: tuple[int, ...]) -> int:
    """The end token that the chat template itself writes behind an assistant's turn."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    ends = [token for token in rendered if token in eos_ids]
    return ends[-1] if ends else eos_ids[0]
