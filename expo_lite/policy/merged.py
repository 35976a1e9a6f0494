"""The weights that our decoder samples with: base and adapter merged into dense matrices.

Made once per phase of sampling, from any model of a known family that transformers or Unsloth has loaded, in four bits
or not, with or without an adapter. The model stays as it is; the dense copy comes on top of its memory, in the type of
its embeddings (fp32 on a CPU, bf16 on a GPU). Projections with the same input are joined into one matrix.

Axes: O output and I input features, r rank, V vocabulary, H hidden, h query and key heads, d head dimension.
"""

from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.nn.modules import Params4bit

from expo_lite.memory.plan import MOST_HEAD_COPY
from expo_lite.policy.products import Product
from expo_lite.settings.models import FAMILIES

ROPES = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on nothing but the position."""


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One decoder layer; `head_norm_hd` is the norm of each query and key head (Qwen3)."""

    attention_norm_H: torch.Tensor
    qkv: Product
    head_norm_hd: torch.Tensor | None
    output: Product
    mlp_norm_H: torch.Tensor
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """A whole model, and the sizes that its matrices do not show."""

    embeddings_VH: torch.Tensor
    layers: tuple[DenseLayer, ...]
    norm_H: torch.Tensor
    head: Product
    n_queries: int
    n_keys: int
    head_dim: int
    norm_eps: float
    frequencies_d: torch.Tensor
    """Radians per position by which pairs of a head's dimensions are rotated; half as many as dimensions."""
    rope_scale: float


def is_known(config: Any) -> bool:
    """Tell whether a transformers model with this configuration can be merged and decoded here."""
    return (
        config.model_type in FAMILIES
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in ROPES
        and config.rope_parameters.get("partial_rotary_factor", 1.0) == 1.0
    )


def adapter_is_off(model: Any) -> bool:
    """Tell whether a peft model's adapter is switched off, as while the model is its own reference."""
    return any(getattr(module, "disable_adapters", False) for module in model.modules())


@torch.no_grad()
def merge(model: Any) -> DenseWeights:
    """The dense weights of a transformers causal language model, its active adapter merged in."""
    config, decoder, head = model.config, model.get_decoder(), model.get_output_embeddings()
    embeddings_VH = decoder.embed_tokens.weight.detach()
    dtype, n_queries, n_keys = embeddings_VH.dtype, config.num_attention_heads, config.num_key_value_heads
    layers = tuple(
        DenseLayer(
            attention_norm_H=layer.input_layernorm.weight.detach(),
            qkv=_joined(dtype, layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            head_norm_hd=_head_norms(layer.self_attn, n_queries, n_keys),
            output=_joined(dtype, layer.self_attn.o_proj),
            mlp_norm_H=layer.post_attention_layernorm.weight.detach(),
            gate_up=_joined(dtype, layer.mlp.gate_proj, layer.mlp.up_proj),
            down=_joined(dtype, layer.mlp.down_proj),
        )
        for layer in decoder.layers
    )
    frequencies_d, rope_scale = rope(config, embeddings_VH.device)
    return DenseWeights(
        embeddings_VH=embeddings_VH,
        layers=layers,
        norm_H=decoder.norm.weight.detach(),
        head=Product(head.weight.detach(), head.bias, most_bytes=MOST_HEAD_COPY),
        n_queries=n_queries,
        n_keys=n_keys,
        head_dim=2 * len(frequencies_d),
        norm_eps=config.rms_norm_eps,
        frequencies_d=frequencies_d,
        rope_scale=rope_scale,
    )


def _joined(dtype: torch.dtype, *projections: Any) -> Product:
    """One product of several projections with the same input."""
    bases = [_base(projection) for projection in projections]
    sizes, device = [base.out_features for base in bases], bases[0].weight.device
    weight_OI = torch.empty(sum(sizes), bases[0].in_features, dtype=dtype, device=device)
    for projection, out_OI in zip(projections, torch.split(weight_OI, sizes), strict=True):
        _merge_into(out_OI, projection)
    if all(base.bias is None for base in bases):
        return Product(weight_OI)
    biases = [torch.zeros(base.out_features, device=device) if base.bias is None else base.bias for base in bases]
    return Product(weight_OI, torch.cat([bias.detach().to(dtype) for bias in biases]))


def merged_weight(projection: Any) -> torch.Tensor:
    """W + scale B A of one projection, fp32; W alone while the adapter is switched off."""
    base = _base(projection)
    weight_OI = torch.empty(base.out_features, base.in_features, dtype=torch.float32, device=base.weight.device)
    _merge_into(weight_OI, projection)
    return weight_OI


def _base(projection: Any) -> Any:
    """The layer inside peft's, or the layer itself."""
    return getattr(projection, "base_layer", projection)


def _merge_into(out_OI: torch.Tensor, projection: Any) -> None:
    """Write W + scale B A, computed in fp32; W alone while the adapter is switched off.

    bf16 loses what is less than half its step: nearly all of an adapter whose B is 1e-4. The first steps of a run then
    sample from nearly the base model, and the importance weights correct it: on `tiny` the sampler is off by 8e-4 nats
    a token, no more than the policy has moved, and by 3.7e-3 where it has moved by 7e-2. Rounding at random, which
    would keep the change on average, is off by 8e-3 and 1.9e-2: its noise is larger than the loss.
    """
    adapters = [] if getattr(projection, "disable_adapters", True) else projection.active_adapters
    weight_OI = dequantised(_base(projection).weight)
    if not adapters:
        out_OI.copy_(weight_OI)
        return
    (adapter,) = adapters
    a_rI, b_Or = (factor[adapter].weight.detach().float() for factor in (projection.lora_A, projection.lora_B))
    out_OI.copy_(torch.addmm(weight_OI.float(), b_Or, a_rI, alpha=projection.scaling[adapter]))


def dequantised(weight: Any) -> torch.Tensor:
    """A weight as a dense matrix: a copy of a four-bit one, any other as it is."""
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
    """Frequencies and scale; those other than the default by transformers' own formulas."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # must wait for Unsloth

    kind = config.rope_parameters["rope_type"]
    if kind != "default":
        frequencies_d, scale = ROPE_INIT_FUNCTIONS[kind](config, device)
        return frequencies_d.float(), float(scale)
    exponents_d = torch.arange(0, head_dim(config), 2, dtype=torch.float32, device=device) / head_dim(config)
    return 1.0 / config.rope_parameters["rope_theta"] ** exponents_d, 1.0


def head_dim(config: Any) -> int:
    """Dimensions of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
