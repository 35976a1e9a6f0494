"""The weights that sampling computes with: base and adapter merged into dense matrices, joined where they share input.

Made once a phase of sampling, from any model of the Llama family that transformers or Unsloth has loaded, four bits or
not, with or without an adapter, which is left as it is. They are in the type of the model's embeddings: fp32 on a CPU,
bf16 on a GPU. The memory is that of the dense model, beside the model itself.

Axes: O output and I input features, r rank, V vocabulary, H hidden, h query and key heads, d head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.nn.modules import Params4bit

from expo_lite.memory.plan import MOST_HEAD_COPY
from expo_lite.policy.products import PlainProduct, Product, has_onednn, product

KINDS = ("llama", "qwen2", "qwen3")
"""Model types that these weights and `decoder` know."""
ROPES = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on nothing but the position."""


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One decoder layer."""

    attention_norm_H: torch.Tensor
    qkv: Product
    head_norm_hd: torch.Tensor | None
    """Of each query and key head (Qwen3)."""
    output: Product
    mlp_norm_H: torch.Tensor
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """A whole model, and the sizes that cannot be seen from its matrices."""

    embeddings_VH: torch.Tensor
    layers: tuple[DenseLayer, ...]
    norm_H: torch.Tensor
    head: Product
    n_queries: int
    n_keys: int
    head_dim: int
    norm_eps: float
    frequencies_d: torch.Tensor
    """Radians a position that the pairs of a head's dimensions are rotated by; half as many as dimensions."""
    rope_scale: float


def is_known(config: Any) -> bool:
    """Whether a transformers model with this configuration can be merged and decoded here."""
    return (
        config.model_type in KINDS
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in ROPES
        and config.rope_parameters.get("partial_rotary_factor", 1.0) == 1.0
    )


def adapter_is_off(model: Any) -> bool:
    """Whether a peft model's adapter is switched off, as it is while it is its own reference."""
    return any(getattr(module, "disable_adapters", False) for module in model.modules())


@torch.no_grad()
def merge(model: Any) -> DenseWeights:
    """The dense weights of a transformers causal language model, its active adapter merged in."""
    config, decoder = model.config, model.get_decoder()
    embeddings_VH = decoder.embed_tokens.weight.detach()
    n_queries, n_keys = config.num_attention_heads, config.num_key_value_heads
    join = _Joiner(embeddings_VH)
    layers = tuple(
        DenseLayer(
            attention_norm_H=layer.input_layernorm.weight.detach(),
            qkv=join(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            head_norm_hd=_head_norms(layer.self_attn, n_queries, n_keys),
            output=join(layer.self_attn.o_proj),
            mlp_norm_H=layer.post_attention_layernorm.weight.detach(),
            gate_up=join(layer.mlp.gate_proj, layer.mlp.up_proj),
            down=join(layer.mlp.down_proj),
        )
        for layer in decoder.layers
    )
    head = model.get_output_embeddings()
    small = head.weight.nbytes <= MOST_HEAD_COPY
    frequencies_d, rope_scale = rope(config, embeddings_VH.device)
    return DenseWeights(
        embeddings_VH=embeddings_VH,
        layers=layers,
        norm_H=decoder.norm.weight.detach(),
        head=(product if small else PlainProduct)(head.weight.detach(), head.bias),
        n_queries=n_queries,
        n_keys=n_keys,
        head_dim=2 * len(frequencies_d),
        norm_eps=config.rms_norm_eps,
        frequencies_d=frequencies_d,
        rope_scale=rope_scale,
    )


class _Joiner:
    """Makes one product of several projections that have the same input."""

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like
        self._packs = has_onednn(like.device, like.dtype)
        self._scratch: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, *projections: Any) -> Product:
        bases = [getattr(projection, "base_layer", projection) for projection in projections]
        sizes = [base.out_features for base in bases]
        weight_OI = self._buffer(sum(sizes), bases[0].in_features)
        for projection, out_OI in zip(projections, torch.split(weight_OI, sizes), strict=True):
            _merge_into(out_OI, projection)
        return product(weight_OI, self._bias(bases))

    def _buffer(self, n_out: int, n_in: int) -> torch.Tensor:
        if not self._packs:
            return self._like.new_empty(n_out, n_in)
        # a packed product has a copy: one buffer a shape, which stays in the processor's cache
        if (n_out, n_in) not in self._scratch:
            self._scratch[n_out, n_in] = self._like.new_empty(n_out, n_in)
        return self._scratch[n_out, n_in]

    def _bias(self, bases: Sequence[Any]) -> torch.Tensor | None:
        if all(base.bias is None for base in bases):
            return None
        none = [self._like.new_zeros(base.out_features) if base.bias is None else base.bias for base in bases]
        return torch.cat([bias.detach().to(self._like.dtype) for bias in none])


def merged_weight(projection: Any) -> torch.Tensor:
    """W + scale B A of one projection, fp32; W alone where the adapter is switched off."""
    base = getattr(projection, "base_layer", projection)
    weight_OI = torch.empty(base.out_features, base.in_features, dtype=torch.float32, device=base.weight.device)
    _merge_into(weight_OI, projection)
    return weight_OI


def _merge_into(out_OI: torch.Tensor, projection: Any) -> None:
    """Write W + scale B A, computed in fp32; W alone where the adapter is switched off."""
    base = getattr(projection, "base_layer", projection)
    adapters = [] if getattr(projection, "disable_adapters", True) else projection.active_adapters
    weight_OI = dequantised(base.weight)
    if not adapters:
        out_OI.copy_(weight_OI)
        return
    (adapter,) = adapters
    a_rI, b_Or = (factor[adapter].weight.detach().float() for factor in (projection.lora_A, projection.lora_B))
    scale = projection.scaling[adapter]
    if out_OI.dtype == torch.float32:
        torch.addmm(weight_OI.float(), b_Or, a_rI, alpha=scale, out=out_OI)
    else:
        out_OI.copy_(torch.addmm(weight_OI.float(), b_Or, a_rI, alpha=scale))


def dequantised(weight: Any) -> torch.Tensor:
    """A weight as a dense matrix: four-bit ones in a copy, others as they are."""
    if isinstance(weight, Params4bit):
        dense: torch.Tensor = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        return dense
    return weight.detach()  # type: ignore[no-any-return]


def _head_norms(attention: Any, n_queries: int, n_keys: int) -> torch.Tensor | None:
    if not hasattr(attention, "q_norm"):
        return None
    query_d, key_d = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
    return torch.cat([query_d.expand(n_queries, -1), key_d.expand(n_keys, -1)])


def rope(config: Any, device: torch.device) -> tuple[torch.Tensor, float]:
    """Frequencies and scale, by transformers' own formulas for what is not the default."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # after Unsloth, where that is used

    kind = config.rope_parameters["rope_type"]
    if kind != "default":
        frequencies_d, scale = ROPE_INIT_FUNCTIONS[kind](config, device)
        return frequencies_d.float(), float(scale)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    exponents_d = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return 1.0 / config.rope_parameters["rope_theta"] ** exponents_d, 1.0
