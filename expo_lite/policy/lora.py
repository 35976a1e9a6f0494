"""The part of a policy that both backends share: a peft model that is sampled, scored, switched off and saved.

A backend only loads the model and switches its modes. The sampler `own` is our decoder on merged weights (slots.py),
`native` the backend's own generate (native.py).
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig

from expo_lite.errors import CheckpointError, ModelError, first_line
from expo_lite.memory.plan import Keeps
from expo_lite.policy import native, scoring, slots
from expo_lite.policy.batching import MicroBatch
from expo_lite.policy.decoder import Decoder
from expo_lite.policy.dense import release_freed_memory
from expo_lite.policy.load import four_bits, has_experts, linear_layers
from expo_lite.policy.merged import adapter_is_off, is_known, merge
from expo_lite.policy.slots import Sampled
from expo_lite.policy.template import bare
from expo_lite.prompts import TEMPLATE
from expo_lite.records import Completion, SampleRequest, SamplingParams
from expo_lite.run.target import ADAPTER_CONFIG, ADAPTER_NOTE, ADAPTER_WEIGHTS, SHAPE
from expo_lite.settings.groups import PolicyConfig

END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<end_of_turn>", "<turn|>")
"""Tokens that end an assistant's turn in the chat templates of the aliases."""
SMALL_PARAMETERS = 2**24
"""The dense copy of so small a model stays with the allocator: the update takes it at once, and asking the system for
memory anew costs `tiny` a twentieth of its step."""


def lora_config(config: PolicyConfig, adapter: Path | None, base: Any) -> LoraConfig:
    """The configuration of a fresh adapter, or of the one in the folder `adapter`, on this base model.

    Raises:
        ModelError: it is on layers that the model has not, or on a mixture's experts.
    """
    known = {name.rpartition(".")[2] for name in linear_layers(base)}
    if has_experts(base):
        # peft takes some names of a shared expert's layers for those of all experts
        convert_peft_config_for_transformers(probe := LoraConfig(target_modules=sorted(known)), base, None)
        known = set(probe.target_modules or ())
    settings: dict[str, Any] = {"r": config.lora_rank, "lora_alpha": config.lora_alpha}
    settings["target_modules"] = sorted(config.lora_targets or known)
    if adapter is not None:
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    shape = {name: settings[name] for name in SHAPE if settings.get(name) is not None}
    made = LoraConfig(**shape, task_type="CAUSAL_LM", revision=base.config._commit_hash)
    given = made.target_modules or ()
    targets = {name.rpartition(".")[2] for name in ([given] if isinstance(given, str) else given)}
    if unknown := sorted(targets - known):
        raise ModelError(f"The model has no layer '{unknown[0]}' to adapt, but {', '.join(sorted(known))}.")
    if has_experts(base):
        named = ", ".join(sorted(targets))
        warnings.warn(f"The model is a mixture of experts: the adapter is on {named}, not on experts.", stacklevel=2)
    return made


class LoraPolicy:
    """A causal language model with a LoRA adapter."""

    keeps: Keeps = "inputs"
    """The tensors that stay for the backward pass, by the memory plan; Unsloth always keeps the inputs alone."""
    _decoder: Decoder | None = None
    _merged_of: tuple[object, ...] = ()
    _phase = ""
    _kept: dict[str, torch.Tensor] | None = None
    """Adapter of the reference model; None if that is the base model."""

    def __init__(self, name: str, model: PeftModel, tokenizer: Any, device: torch.device, *, sampler: str) -> None:
        """Take a loaded model with one adapter, the model's name as typed, and the sampler that is asked for."""
        self.name, self.tokenizer, self.device = name, tokenizer, device
        self._peft = model
        self.base_model: Any = model.get_base_model()
        """The transformers model, with the adapter's layers in it."""
        self._sampler = choose_sampler(sampler, self.base_model.config, name)
        self.revision = model.peft_config["default"].revision
        self.eos_ids = _eos_ids(tokenizer, self.base_model)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_ids[0]
        self.end_id = _end_id(tokenizer, self.eos_ids)
        self.packs = scoring.is_packed(self.base_model)
        computes_in = model.get_input_embeddings().weight.dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=computes_in == torch.float16)
        self.samples_exactly = computes_in == torch.float32
        self.n_sampled_tokens = self.n_scored_tokens = 0
        self.on_ended: Callable[[int], None] = lambda n: None
        defaults: Any = GenerationConfig  # half typed
        self.base_model.generation_config = defaults()  # Qwen's own would add a top_k and a penalty to every generate

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        """Sample completions, one tuple a request, in order."""
        self._enter("sampling")
        sampled = self._sample(requests, params, seed)
        self.n_sampled_tokens += sum(len(row.token_ids) for rows in sampled for row in rows)
        return [
            tuple(self._completion(request.prompt_ids, row) for row in rows)
            for request, rows in zip(requests, sampled, strict=True)
        ]

    def _completion(self, prompt_ids: tuple[int, ...], row: Sampled) -> Completion:
        text = self.tokenizer.decode(row.token_ids, skip_special_tokens=True)
        return Completion(prompt_ids, tuple(row.token_ids), tuple(row.logprobs), text, row.finish_reason)

    def _sample(self, requests: Sequence[SampleRequest], params: SamplingParams, seed: int) -> list[list[Sampled]]:
        options: dict[str, Any] = {"seed": seed, "eos_ids": self.eos_ids, "on_ended": self.on_ended}
        if self._sampler == "native":
            return native.sample(self.base_model, requests, params, pad_id=self.pad_id, **options)
        return slots.sample(self._merged(), requests, params, **options)

    def _merged(self) -> Decoder:
        """The decoder of the current weights; made anew after they changed or the adapter was switched on or off."""
        adapter = self.parameters().values()
        # torch counts the writes to a tensor
        now = (adapter_is_off(self.base_model), *(p._version for p in adapter))
        if self._decoder is None or self._merged_of != now:
            self._drop_decoder()
            self._decoder, self._merged_of = Decoder(merge(self.base_model)), now
        return self._decoder

    def _drop_decoder(self) -> None:
        """Free the dense copy of the weights, which training does not use."""
        if self._decoder is not None:
            self._decoder = None
            if self.base_model.num_parameters() > SMALL_PARAMETERS:
                release_freed_memory()

    def logprobs(self, batch: MicroBatch, *, temperature: float, gradient: bool = True) -> torch.Tensor:
        """Log-probabilities [N] of the batch's completion tokens, with a gradient to the adapter.

        Always in train mode and with gradients on, for reference values too: bitsandbytes takes another kernel without.
        If no gradient is wanted, it ends before the head.
        """
        with self._scoring(batch, gradient):
            return scoring.score(self.base_model, batch, temperature=temperature, gradient=gradient)

    def listed_logprobs(
        self, batch: MicroBatch, tokens: torch.Tensor | int, *, temperature: float, gradient: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [N, K], given or the most probable, and their log-probabilities; as `logprobs` otherwise."""
        with self._scoring(batch, gradient):
            return scoring.score_listed(self.base_model, batch, tokens, temperature=temperature, gradient=gradient)

    @contextlib.contextmanager
    def _scoring(self, batch: MicroBatch, gradient: bool) -> Iterator[None]:
        """Make ready for a forward pass over the batch with gradients."""
        self._drop_decoder()
        self._enter("training")
        with torch.enable_grad():
            yield

    def _enter(self, phase: str) -> None:
        """Switch modes, and return the memory that the last phase freed: a GPU's allocator would keep its blocks."""
        if phase != self._phase:
            torch.cuda.empty_cache()  # does nothing where CUDA has not started
            self._switch(training=phase == "training")
            self._phase = phase

    def _switch(self, *, training: bool) -> None:
        self._peft.train(training)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapter off, or swap it for the kept one, in this context."""
        if self._kept is None:
            with self._peft.disable_adapter():
                yield
            return
        own = {name: p.detach().clone() for name, p in self.parameters().items()}
        self._write(self._kept)
        try:
            yield
        finally:
            self._write(own)

    def keep_reference(self) -> None:
        """Make the policy as it is now the reference model."""
        self._kept = {name: p.detach().clone() for name, p in self.parameters().items()}

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        """Write adapter weights in place, which torch counts, so `_merged` sees that they changed."""
        for name, parameter in self.parameters().items():
            parameter.copy_(values[name])

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by name."""
        return {name: p for name, p in self._peft.named_parameters() if p.requires_grad}

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in peft's layout."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft looks the base model up on the hub, and warns that it cannot
            self._peft.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
        (folder / TEMPLATE).write_text(self.tokenizer.chat_template, encoding="utf-8")
        note = {"bits": 4 if four_bits(self.base_model) else 16}
        (folder / ADAPTER_NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")

    def load_adapter(self, folder: Path) -> None:
        """Take the adapter's weights from a folder, and warn if it was trained with another chat template.

        Raises:
            CheckpointError: the folder has no readable adapter, or one of another shape.
        """
        try:
            weights = load_file(folder / ADAPTER_WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"The adapter in '{folder}' cannot be read: {first_line(error)}") from error
        own = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        there, here = _shapes(weights), _shapes(own)
        if different := sorted(name for name in there | here if there.get(name) != here.get(name)):
            name = different[0]
            raise CheckpointError(
                f"The adapter in '{folder}' does not fit this model and LoRA rank: {name} has the shape "
                f"{there.get(name)} there and {here.get(name)} here ({len(different)} of {len(here)} differ)."
            )
        set_peft_model_state_dict(self._peft, weights)
        trained = folder / TEMPLATE
        if trained.exists() and bare(trained.read_text(encoding="utf-8")) != bare(self.tokenizer.chat_template):
            warnings.warn(f"The adapter in '{folder}' was trained with another chat template: {trained}", stacklevel=2)


def choose_sampler(asked: str, config: Any, name: str) -> str:
    """`own` if our decoder knows the model, else `native`.

    Raises:
        ModelError: `own` was asked for, and our decoder does not know the model.
    """
    if asked == "own" and not is_known(config):
        raise ModelError(
            f"sampler '{asked}' does not know models like '{name}' (type {config.model_type}): take --sampler native."
        )
    return ("own" if is_known(config) else "native") if asked == "auto" else asked


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _eos_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Every token that ends a turn: those that model and tokenizer name, and the `END_TOKENS` in the vocabulary.

    A GGUF file may name another one, and has no generation settings.
    """
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[token] for token in END_TOKENS if token in vocabulary}
    for ids in (tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)):
        found |= set(ids) if isinstance(ids, list) else {ids} if ids is not None else set()
    found -= {vocabulary[token] for token in ("<|im_start|>", "<|start_header_id|>") if token in vocabulary}
    return tuple(sorted(found))


def _end_id(tokenizer: Any, eos_ids: tuple[int, ...]) -> int:
    """The end token that the chat template writes after an assistant's turn."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    ends = [token for token in rendered if token in eos_ids]
    return ends[-1] if ends else eos_ids[0]
