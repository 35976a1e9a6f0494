"""Unsloth's GPU code on CPU tensors: its Triton kernels interpreted, its forward passes and generate as on a card.

Run in a process of its own with TRITON_INTERPRET=1, UNSLOTH_ALLOW_CPU=1 and UNSLOTH_COMPILE_DISABLE=1; prints what came
out as JSON. The arguments: a folder with an adapter that transformers wrote, and fp32 or fp16. What a card has and a
CPU lacks is put in its place here, each in one line: a device's number, pinned memory, xformers. Nothing
that computes is replaced.
"""

import importlib
import json
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import torch

from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row, micro_batches
from expo_lite.policy.scoring import score_rows
from expo_lite.records import SampleRequest, SamplingParams
from expo_lite.settings.groups import PolicyConfig

own: Any = importlib.import_module("expo_lite.policy.unsloth")  # imports Unsloth, before what it patches
PROMPTS = ((2, 8, 9, 10, 11), (2, 8, 9, 10, 11, 12, 13, 14, 15, 16), (2, 20, 21))
ROWS = [Row(prompt, tuple(range(30, 30 + 7 * i)), advantage=1.0, weight=0.1) for i, prompt in enumerate(PROMPTS, 1)]
N_TOKENS = 6
CASES = {"fp32": (torch.float32, "unsloth"), "fp16": (torch.float16, False)}
"""In fp32 everything is exact, but Unsloth leaves its fused LoRA layers out; in fp16 they run."""


def module(name: str) -> Any:
    """A module, of which nobody knows the types."""
    return importlib.import_module(name)


def as_on_a_card() -> None:
    """The places where Unsloth's GPU code asks for what only a card has."""
    rope, llama, attention, checkpointing, trainer = map(
        module,
        (
            "unsloth.kernels.rope_embedding",
            "unsloth.models.llama",
            "unsloth.utils.attention_dispatch",
            "unsloth_zoo.gradient_checkpointing",
            "transformers.trainer",
        ),
    )
    module("torch.cuda").current_device = lambda: 0
    llama.get_current_device, llama.DEVICE_COUNT, llama.DEVICE_TYPE_TORCH = (lambda: 0), 1, "cpu"
    llama.clean_gpu_cache = lambda: None
    attention.HAS_XFORMERS = False
    rope._eviction_hints_ok = lambda device: False
    checkpointing._new_host_buffer = lambda n, dtype: torch.empty(n, dtype=dtype)  # not pinned

    def build_rope(self: Any, place: int) -> None:
        rows, device = self._rope_cache_rows(), torch.device("cpu", 0)
        self._set_cos_sin_cache(seq_len=rows, device=device, dtype=self._rope_cache_dtype)
        self._rope_cache_versions[place] = self._rope_cache_version
        self._mark_rope_build(place)

    llama._PerDeviceRopeCache._build_rope_cache = build_rope
    made = llama.LlamaRotaryEmbedding.__init__

    def on_the_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        empty = torch.empty
        torch.empty = lambda *shape, **options: empty(*shape, **options | {"device": "cpu"})
        try:
            made(self, *args, **kwargs)
        finally:
            torch.empty = empty

    llama.LlamaRotaryEmbedding.__init__ = on_the_cpu

    def _fast_inner_training_loop(*_: Any, **__: Any) -> None:
        raise NotImplementedError  # its name is asked for, and no more

    trainer.Trainer._inner_training_loop = _fast_inner_training_loop


def load_as_on_a_card(**given: Any) -> tuple[Any, None]:
    """Do as `FastLanguageModel.from_pretrained` does there to a Qwen2 in 16 bits, but for placing it on the card."""
    transformers, llama = module("transformers"), module("unsloth.models.llama")
    family = module("unsloth.models.qwen2").FastQwen2Model
    before = llama._snapshot_transformers_modules(family)
    family.pre_patch()
    llama._record_pre_patch_changes(before)
    llama._gate_pre_patch_to_unsloth_models(before)
    folder = given["model_name"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=given["dtype"], attn_implementation="sdpa")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    llama.mark_unsloth_fast_path(model)
    for part in model.modules():
        part.max_seq_length = given["max_seq_length"]
    for layer in model.model.layers:
        layer.self_attn.apply_qkv, layer.self_attn.apply_o = llama.original_apply_qkv, llama.original_apply_o
        layer.self_attn.rotary_emb = model.model.rotary_emb
    inner = model
    while inner is not None:
        inner._saved_temp_tokenizer = tokenizer
        inner = getattr(inner, "model", None)
    model._old_generate = model.generate
    model.generate = types.MethodType(llama.unsloth_fast_generate, model)
    return model, None


def only(dtype: torch.dtype, _device: torch.device) -> torch.dtype:
    """The type that a card would compute in."""
    return dtype


def main() -> None:
    """Score, differentiate and sample, in fp32 with checkpointing or in fp16 without; say which kernels ran."""
    as_on_a_card()
    own.FastLanguageModel.from_pretrained = staticmethod(load_as_on_a_card)
    ran = count_kernels()
    dtype, own.CHECKPOINTING = CASES[sys.argv[2]]
    own.compute_type = partial(only, dtype)
    config = PolicyConfig(backend="unsloth", bits=16, sampler="native")
    policy = own.UnslothPolicy("tiny", config, seed=0, adapter=Path(sys.argv[1]))
    ran.clear()
    found = measured(policy) | {"kernels": dict(ran)}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def measured(policy: Policy) -> dict[str, Any]:
    """Log-probabilities, the reference's, gradients, greedy samples, and sampler against scorer after a change."""
    found: dict[str, Any] = {"logprobs": scores(policy)}
    with policy.reference():
        found["reference"] = scores(policy)
    for batch in micro_batches(ROWS, token_budget=64, pad_id=policy.pad_id):
        (policy.logprobs(batch, temperature=1.0) * batch.weights_N).sum().backward()  # type: ignore[no-untyped-call]
    found["gradients"] = {name: float(p.grad.norm()) for name, p in policy.parameters().items() if p.grad is not None}
    sampled = policy.sample([SampleRequest(prompt, 2) for prompt in PROMPTS], SamplingParams(0.0, N_TOKENS), seed=5)
    found["greedy"] = [list(completion.token_ids) for row in sampled for completion in row]
    with torch.no_grad():  # as after an update: does it reach the sampler?
        for parameter in policy.parameters().values():
            parameter.mul_(2)
    sampled = policy.sample([SampleRequest(prompt, 2) for prompt in PROMPTS], SamplingParams(1.0, N_TOKENS), seed=5)
    completions = [completion for row in sampled for completion in row]
    rows = [Row(completion.prompt_ids, completion.token_ids) for completion in completions]
    scored = torch.cat(score_rows(policy, rows, temperature=1.0, token_budget=64))
    said = torch.tensor([value for completion in completions for value in completion.logprobs])
    found["difference"] = float((scored - said).abs().mean())
    return found


def scores(policy: Policy) -> list[list[float]]:
    return [scored.tolist() for scored in score_rows(policy, ROWS, temperature=1.0, token_budget=64)]


def count_kernels() -> dict[str, int]:
    """Count how often each Triton kernel is interpreted, from now on."""
    executor = module("triton.runtime.interpreter").GridExecutor
    ran: dict[str, int] = {}
    call = executor.__call__

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = self.fn.__name__
        ran[name] = ran.get(name, 0) + 1
        return call(self, *args, **kwargs)

    executor.__call__ = counting
    return ran


if __name__ == "__main__":
    main()
