"""The transformers + peft + bitsandbytes policy; runs on a GPU and, in fp32, on a CPU.

What has run where: everything in this file runs in the tests on a CPU. Nothing of it has yet been run on a GPU.
"""

import contextlib
import gc
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, logging

from expo_lite.batching import MicroBatch
from expo_lite.config import PolicyConfig
from expo_lite.errors import CheckpointError, ModelError
from expo_lite.policy import sampler, scoring
from expo_lite.policy.dense import dense_weights
from expo_lite.presets import find_model
from expo_lite.records import Completion, SampleRequest, SamplingParams

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>")
"""Tokens that end an assistant's turn in the chat templates of the aliases; each counts where the tokenizer has it."""


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
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.name = name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        source = find_model(name).source
        base, self.tokenizer = _load(source, name, config, self.device)
        self._check(base)
        base.requires_grad_(False)
        base.config.use_cache = False
        if config.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=PROJECTIONS, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._peft: PeftModel = get_peft_model(base, lora)
        self._model: Any = self._peft.get_base_model()
        self.eos_ids = _eos_ids(self.tokenizer, base)
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_ids[0]
        self.end_id = _end_id(self.tokenizer, self.eos_ids)
        if adapter is not None:
            self.load_adapter(adapter)

    def _check(self, base: Any) -> None:
        if self.tokenizer.chat_template is None:
            raise ModelError(f"Model '{self.name}' has no chat template. Give an instruct model.")
        layer_types = getattr(base.config, "layer_types", None) or []
        if any("full" not in kind for kind in layer_types):
            kinds = ", ".join(sorted(set(layer_types)))
            raise ModelError(f"Model '{self.name}' mixes attention kinds ({kinds}); only full attention is supported.")
        missing = [name for name in PROJECTIONS if not any(n.endswith(name) for n, _ in base.named_modules())]
        if missing:
            raise ModelError(f"Model '{self.name}' has no {', '.join(missing)}: only Llama- and Qwen-like models fit.")

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        """Sample completions, one tuple a request, in order."""
        self._peft.eval()
        with dense_weights(self._model) if self.device.type == "cpu" else contextlib.nullcontext():
            sampled = sampler.sample(
                self._model, requests, params, seed=seed, eos_ids=self.eos_ids, pad_id=self.pad_id
            )
        return [
            tuple(sampler.to_completion(request.prompt_ids, row, self.tokenizer) for row in rows)
            for request, rows in zip(requests, sampled, strict=True)
        ]

    def logprobs(self, batch: MicroBatch, *, temperature: float) -> torch.Tensor:
        """Log-probabilities [N] of the batch's completion tokens, with a gradient to the adapter.

        Always in train mode and with gradients on, for reference values too: bitsandbytes takes another kernel without.
        """
        self._peft.train()
        with torch.enable_grad():
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
            weights = load_peft_weights(str(folder), device="cpu")
            result = set_peft_model_state_dict(self._peft, weights)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"The adapter in '{folder}' cannot be loaded: {_first_line(error)}") from error
        if result.unexpected_keys:
            raise CheckpointError(f"The adapter in '{folder}' was made for another model or LoRA shape.")


def _load(source: str, name: str, config: PolicyConfig, device: torch.device) -> tuple[Any, Any]:
    """The base model and its tokenizer, quantised as configured."""
    path = Path(source)
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = str(path.parent) if gguf else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **gguf)
        if gguf and config.bits == 4:
            # transformers dequantises GGUF and cannot quantise in the same pass: by way of a folder of plain weights
            with tempfile.TemporaryDirectory() as plain:
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf)
                model.config.__dict__.pop("quantization_config", None)
                model.save_pretrained(plain)
                del model
                gc.collect()
                model = AutoModelForCausalLM.from_pretrained(plain, **_options(config, device))
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, **_options(config, device), **gguf)
    except (OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise ModelError(f"Model '{name}' does not fit into the GPU's memory: {_first_line(error)}") from error
        raise ModelError(
            f"Cannot load model '{name}' from '{source}': {_first_line(error)} "
            "Without a network, download it elsewhere and give its folder as --model."
        ) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # its first forward pass repacks the weight in place, and later gradients are wrong
            module.support_avx512bf16_for_cpu = False
    return model, tokenizer


def _options(config: PolicyConfig, device: torch.device) -> dict[str, Any]:
    # bf16 is unusably slow on most CPUs
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "device_map": {"": str(device)}}
    if config.bits == 4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return options


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


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
