"""Export a trained policy: its adapter, or base and adapter merged into one plain model, checked by its outputs."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from expo_lite.errors import ModelError
from expo_lite.policy.device import compute_type
from expo_lite.policy.load import settle_attention
from expo_lite.policy.lora import LoraPolicy
from expo_lite.policy.merged import dequantised, merged_weight
from expo_lite.prompts import Turns, rendered
from expo_lite.records import Completion, SampleRequest, SamplingParams

MergedType = Literal["bf16", "f16", "f32"]
DTYPES: dict[MergedType, torch.dtype] = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
MOST_NATS = 0.05
"""Largest mean difference between the token log-probabilities of exported model and policy; rounding to 16 bits gives
up to 0.01."""
OLLAMA = (
    "{{ if .System }}{{ %s }}{{ .System }}{{ %s }}{{ else }}{{ %s }}{{ end }}"
    "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    '{{ if eq .Role "user" }}{{ .Content }}{{ if $last }}{{ %s }}{{ else }}{{ %s }}{{ end }}'
    '{{ else if eq .Role "assistant" }}{{ .Content }}{{ if not $last }}{{ %s }}{{ end }}{{ end }}{{ end }}'
)
"""A chat template in Ollama's language, without the texts around the turns."""
_AUTO: Any = AutoModelForCausalLM  # these two are half typed
_GENERATION: Any = GenerationConfig


@dataclass(frozen=True, slots=True)
class Agreement:
    """The scores that an exported model gives the policy's greedy completions."""

    n_completions: int
    n_same: int
    """Completions that it would write to the last token."""
    n_tokens: int
    n_same_tokens: int
    """Tokens that are its first choice."""
    mean_nats: float
    """Mean absolute difference of the log-probabilities of these tokens."""

    def __str__(self) -> str:
        return (
            f"{self.n_same} of {self.n_completions} greedy completions are the same to the last token, "
            f"{self.n_same_tokens:,} of {self.n_tokens:,} tokens are its first choice too, log-probabilities differ by "
            f"{self.mean_nats:.1e} nats a token"
        )


def greedy(policy: LoraPolicy, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[Completion]:
    """The policy's greedy completions of these prompts, one each."""
    requests = [SampleRequest(prompt, 1) for prompt in prompts]
    return [completion for (completion,) in policy.sample(requests, SamplingParams(0.0, max_tokens), seed=0)]


def merged_state(policy: LoraPolicy, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All weights under their names in transformers, on the CPU: the quantised base with the adapter merged in."""
    model = policy.base_model
    modules = dict(model.named_modules())
    stored = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in stored]  # such as Gemma 4's scales
    state: dict[str, torch.Tensor] = {}
    for full, parameter in [*model.named_parameters(remove_duplicate=True), *buffers]:
        module, _, name = full.rpartition(".")
        if ".lora_" in full:
            continue
        projection = modules[module.removesuffix(".base_layer")]
        with_adapter = module.endswith(".base_layer") and name == "weight"
        weight = merged_weight(projection) if with_adapter else dequantised(parameter)
        state[full.replace(".base_layer.", ".")] = weight.detach().to(dtype).cpu()
    overflowing = [name for name, weight in state.items() if not torch.isfinite(weight).all()]
    if overflowing:
        raise ModelError(
            f"{len(overflowing)} weights do not fit into {dtype} ({overflowing[0]}, ...). Take --dtype bf16."
        )
    return state


def plain_config(policy: LoraPolicy, dtype: torch.dtype) -> Any:
    """The model's configuration without its quantisation."""
    about = policy.base_model.config.to_dict()
    about.pop("quantization_config", None)
    kind = about.pop("model_type")
    return AutoConfig.for_model(kind, **about | {"dtype": str(dtype).removeprefix("torch."), "use_cache": True})


def write_merged(policy: LoraPolicy, folder: Path, dtype: MergedType) -> None:
    """Write merged weights, configuration and tokenizer in transformers' layout.

    Raises:
        ModelError: a weight does not fit into `dtype`.
    """
    config = plain_config(policy, DTYPES[dtype])
    with torch.device("meta"):
        model = _AUTO.from_config(config)
    missing, unexpected = model.load_state_dict(merged_state(policy, DTYPES[dtype]), strict=False, assign=True)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ModelError(f"The model has no plain form: {sorted({*missing, *unexpected})[:3]} ... do not fit.")
    model.tie_weights()
    # the base's own sampling settings (a penalty, a top_k) were not used in training
    model.generation_config = _GENERATION(eos_token_id=list(policy.eos_ids), pad_token_id=policy.pad_id)
    model.save_pretrained(str(folder))
    policy.tokenizer.save_pretrained(str(folder))


def modelfile(tokenizer: Any, gguf_name: str, temperature: float, turns: Turns) -> str:
    """Ollama's Modelfile beside a GGUF file, from which Ollama takes the end tokens.

    Args:
        tokenizer: with the chat template.
        gguf_name: name of the file.
        temperature: to sample with.
        turns: those before every question: a system prompt, worked examples.

    Raises:
        ModelError: the template has no form in Ollama, or the turns cannot be quoted in a Modelfile.
    """
    if any('"""' in turn["content"] for turn in turns):
        raise ModelError('The question prompt contains """, which ends a text in a Modelfile.')
    lines = ["SYSTEM" if turn["role"] == "system" else f"MESSAGE {turn['role']}" for turn in turns]
    lines = [f'{line} """{turn["content"]}"""' for line, turn in zip(lines, turns, strict=True)]
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{ollama_template(tokenizer)}"""', *lines]
    return "\n".join([*lines, f"PARAMETER temperature {temperature}", ""])


def ollama_template(tokenizer: Any) -> str:
    """The chat template in Ollama's language, out of what it writes around the turns of a conversation.

    Ollama knows a few templates of GGUF files, and leaves out all others without a word. It writes BOS itself.

    Raises:
        ModelError: what the template writes is not of this form.
    """
    roles = ("system", "user", "assistant", "user")
    system, *talk = ({"role": role, "content": f"({role} {i})"} for i, role in enumerate(roles))

    def around(*turns: dict[str, str]) -> list[str]:
        text = rendered(tokenizer, list(turns)).removeprefix(tokenizer.bos_token or "")
        return re.split("|".join(re.escape(turn["content"]) for turn in turns), text)

    try:
        head, last = around(talk[0])
        before, after, to_reply, to_user, same = around(system, *talk)
        if [head, to_reply, to_user, last] != around(*talk) or last != same:
            raise ValueError
    except (TemplateError, ValueError) as error:
        why = str(error) if isinstance(error, TemplateError) else "what it writes around a turn depends on other turns"
        raise ModelError(f"The chat template cannot be written for Ollama: {why}. Take --to gguf.") from error
    texts = before, after, head, last, to_reply, to_user
    return OLLAMA % tuple(json.dumps(text, ensure_ascii=False) for text in texts)


def write_adapter(policy: LoraPolicy, folder: Path) -> None:
    """Write the adapter in peft's layout, with its tokenizer.

    Raises:
        ModelError: others load another model by the name of its base.
    """
    if getattr(policy.base_model, "is_part", False):
        raise ModelError(
            f"The adapter is on the language part of '{policy.name}' alone, and transformers loads all of that: it "
            "would not find the adapter's layers. Take --to merged."
        )
    policy.save_adapter(folder)
    policy.tokenizer.save_pretrained(str(folder))


def check_export(place: Path, completions: Sequence[Completion], device: torch.device, config: Any = None) -> Agreement:
    """Load a merged folder or GGUF file as another program would, and compare it with the policy.

    Give `config` for a GGUF file: transformers reads neither the size of heads nor the factors of a rotation from it.

    Raises:
        ModelError: its log-probabilities are not those of the policy.
    """
    options: dict[str, Any] = {"gguf_file": place.name} if place.suffix == ".gguf" else {}
    folder = str(place.parent if options else place)
    options |= {} if config is None else {"config": config}
    model = _AUTO.from_pretrained(folder, dtype=compute_type(device), local_files_only=True, **options).to(device)
    settle_attention(model)
    n_same = n_same_tokens = n_tokens = 0
    total_nats = 0.0
    with torch.inference_mode():
        for completion in completions:
            n = len(completion.token_ids)
            ids_1T = torch.tensor([[*completion.prompt_ids, *completion.token_ids]], device=device)
            logits_NV = model(input_ids=ids_1T).logits[0, -n - 1 : -1].float()
            tokens_N = torch.tensor(completion.token_ids, device=device)
            same = int((logits_NV.argmax(1) == tokens_N).sum())
            logprobs_N = torch.log_softmax(logits_NV, 1).gather(1, tokens_N[:, None])[:, 0]
            total_nats += float((logprobs_N - torch.tensor(completion.logprobs, device=device)).abs().sum())
            n_same, n_same_tokens, n_tokens = n_same + (same == n), n_same_tokens + same, n_tokens + n
    found = Agreement(len(completions), n_same, n_tokens, n_same_tokens, total_nats / max(n_tokens, 1))
    if not found.mean_nats <= MOST_NATS:
        raise ModelError(f"What was written is not what was trained: {found} (limit {MOST_NATS}). It is not kept.")
    return found
