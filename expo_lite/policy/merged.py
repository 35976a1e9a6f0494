"""The weights that our decoder samples with: base and adapter merged into dense matrices.

Made once per phase of sampling, from any model of a known family that transformers or Unsloth has loaded, in four bits
or not, with or without an adapter. The model stays as it is; the dense copy comes on top of its memory, in the type of
its embeddings (fp32 on a CPU, bf16 on a GPU). Projections with the same input are joined into one matrix.

Axes: O output and I input features, r rank, V vocabulary, H hidden, h query and key heads, d head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.nn.modules import Params4bit
from torch.nn.functional import gelu, silu

from expo_lite.memory.plan import MOST_HEAD_COPY
from expo_lite.policy.products import Product
from expo_lite.policy.scoring import logit_shape
from expo_lite.settings.models import FAMILIES, Family

ROPES = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on nothing but the position."""
ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "silu": silu,
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One decoder layer."""

    norms: tuple[torch.Tensor | None, ...]
    """Before and after the attention, before and after the MLP; None where it has none."""
    qkv: Product
    head_norm_hd: torch.Tensor | None
    """Norms of the query and key heads: of each (Qwen3), or of all together (OLMo 2)."""
    output: Product
    gate_up: Product
    down: Product
    rope: int | None
    """Which of the model's rotations its heads have."""
    window: int | None
    """Positions that a token attends to, its own included; None: all before it."""


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
    ropes: tuple[tuple[torch.Tensor, float], ...]
    """Rotations: radians per position of pairs of a head's dimensions, half as many as dimensions, and a scale."""
    activation: Callable[[torch.Tensor], torch.Tensor]
    joint_norms: bool
    """The norms of queries and keys are over all heads together."""
    embedding_scale: float
    attention_scale: float
    long_queries: tuple[float, int] | None
    """Ministral 3: queries are multiplied by 1 + a log(1 + floor(position / n))."""


def is_packable(config: Any) -> bool:
    """Tell whether a model's attention is of a kind that packed rows have: full or sliding, without a cap."""
    kinds = set(getattr(config, "layer_types", None) or ())
    capped = getattr(config, "attn_logit_softcapping", None) or getattr(config, "use_bidirectional_attention", None)
    return config.model_type in FAMILIES and kinds <= {"full_attention", "sliding_attention"} and not capped


def is_known(config: Any) -> bool:
    """Tell whether a transformers model with this configuration can be merged and decoded here."""
    return (
        is_packable(config)
        and _activation(config) in ACTIVATIONS
        and not getattr(config, "final_logit_softcapping", None)
        and all(
            kind["rope_type"] in ROPES and kind.get("partial_rotary_factor", 1.0) == 1.0
            for kind in _rotations(config).values()
        )
    )


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def _rotations(config: Any) -> dict[str | None, dict[str, Any]]:
    """The rotation of each type of layer, or of all (None)."""
    about = config.rope_parameters
    return {None: about} if "rope_type" in about else {kind: about[kind] for kind in set(config.layer_types)}


def adapter_is_off(model: Any) -> bool:
    """Tell whether a peft model's adapter is switched off, as while the model is its own reference."""
    return any(getattr(module, "disable_adapters", False) for module in model.modules())


@torch.no_grad()
def merge(model: Any) -> DenseWeights:
    """The dense weights of a transformers causal language model, its active adapter merged in."""
    config, decoder, head = model.config, model.get_decoder(), model.get_output_embeddings()
    family, embeddings_VH = FAMILIES[config.model_type], decoder.embed_tokens.weight.detach()
    dtype, n_queries, n_keys = embeddings_VH.dtype, config.num_attention_heads, config.num_key_value_heads
    rotations = list(_rotations(config))
    kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    roped = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers  # 1: with rope
    residual, (factor, _) = getattr(config, "residual_multiplier", 1.0), logit_shape(config)

    def layer_of(number: int, layer: Any) -> DenseLayer:
        attention, mlp = layer.self_attn, layer.mlp
        return DenseLayer(
            norms=tuple(_norm(getattr(layer, name), family) if name else None for name in family.norms),
            qkv=_joined(dtype, attention.q_proj, attention.k_proj, attention.v_proj),
            head_norm_hd=_head_norms(attention, n_queries, n_keys, family),
            output=_joined(dtype, attention.o_proj, factor=residual),
            gate_up=_joined(dtype, mlp.gate_proj, mlp.up_proj),
            down=_joined(dtype, mlp.down_proj, factor=residual),
            rope=(0 if len(rotations) == 1 else rotations.index(kinds[number])) if roped[number] else None,
            window=config.sliding_window if family.windowed else getattr(attention, "sliding_window", None),
        )

    layers = tuple(layer_of(number, layer) for number, layer in enumerate(decoder.layers))
    ropes = tuple(rope(config, embeddings_VH.device, kind) for kind in rotations)
    queries = _rotations(config)[rotations[0]]
    long = queries.get("llama_4_scaling_beta")
    norm_H = _norm(decoder.norm, family)
    return DenseWeights(
        embeddings_VH=embeddings_VH,
        layers=layers,
        norm_H=norm_H if factor == 1 else norm_H * factor,
        head=Product(head.weight.detach(), head.bias, most_bytes=MOST_HEAD_COPY),
        n_queries=n_queries,
        n_keys=n_keys,
        head_dim=2 * len(ropes[0][0]),
        norm_eps=config.rms_norm_eps,
        ropes=ropes,
        activation=ACTIVATIONS[_activation(config)],
        joint_norms=family.head_norms == "joint",
        # Gemma rounds the root to the embeddings' own type
        embedding_scale=float(torch.tensor(config.hidden_size**0.5, dtype=dtype))
        if family.gemma
        else getattr(config, "embedding_multiplier", 1.0),
        attention_scale=decoder.layers[0].self_attn.scaling,
        long_queries=(long, queries["original_max_position_embeddings"]) if long else None,
    )


def _norm(norm: Any, family: Family) -> torch.Tensor:
    """The weight of a norm, by which what is normed is multiplied."""
    weight: torch.Tensor = norm.weight.detach()
    return 1 + weight.float() if family.gemma else weight  # in 16 bits the sum would lose what is learned


def _joined(dtype: torch.dtype, *projections: Any, factor: float = 1.0) -> Product:
    """One product of several projections with the same input, times a factor."""
    weight_OI = torch.cat([merged_weight(projection).to(dtype) for projection in projections])
    if factor != 1:
        weight_OI *= factor
    bases = [_base(projection) for projection in projections]
    if all(base.bias is None for base in bases):
        return Product(weight_OI)
    device = weight_OI.device
    biases = [torch.zeros(base.out_features, device=device) if base.bias is None else base.bias for base in bases]
    return Product(weight_OI, factor * torch.cat([bias.detach().to(dtype) for bias in biases]))


def _base(projection: Any) -> Any:
    """The layer inside peft's, or the layer itself."""
    return getattr(projection, "base_layer", projection)


def merged_weight(projection: Any) -> torch.Tensor:
    """W + scale B A of one projection, fp32; W alone, in its own type, while the adapter is switched off.

    bf16 loses what is less than half its step: nearly all of an adapter whose B is 1e-4. The first steps of a run then
    sample from nearly the base model, and the importance weights correct it: on `tiny` the sampler is off by 8e-4 nats
    a token, no more than the policy has moved, and by 3.7e-3 where it has moved by 7e-2. Rounding at random, which
    would keep the change on average, is off by 8e-3 and 1.9e-2: its noise is larger than the loss.
    """
    adapters = [] if getattr(projection, "disable_adapters", True) else projection.active_adapters
    weight_OI = dequantised(_base(projection).weight)
    if not adapters:
        return weight_OI
    (adapter,) = adapters
    a_rI, b_Or = (factor[adapter].weight.detach().float() for factor in (projection.lora_A, projection.lora_B))
    return torch.addmm(weight_OI.float(), b_Or, a_rI, alpha=projection.scaling[adapter])


def dequantised(weight: Any) -> torch.Tensor:
    """A weight as a dense matrix: a copy of a four-bit one, any other as it is."""
    if isinstance(weight, Params4bit):
        dense: torch.Tensor = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        return dense
    return weight.detach()  # type: ignore[no-any-return]


def _head_norms(attention: Any, n_queries: int, n_keys: int, family: Family) -> torch.Tensor | None:
    """The weights [h, d] by which query and key heads are multiplied after their norm."""
    if not family.head_norms:
        return None
    pairs = (_norm(attention.q_norm, family), n_queries), (_norm(attention.k_norm, family), n_keys)
    return torch.cat([norm.expand(n, -1) if family.head_norms == "each" else norm.view(n, -1) for norm, n in pairs])


def rope(config: Any, device: torch.device, layer_type: str | None = None) -> tuple[torch.Tensor, float]:
    """Frequencies and scale of all layers or of a type; those other than the default by transformers' own formulas."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # must wait for Unsloth

    about = _rotations(config)[layer_type]
    if about["rope_type"] != "default":
        frequencies_d, scale = ROPE_INIT_FUNCTIONS[about["rope_type"]](config, device, layer_type=layer_type)
        return frequencies_d.float(), float(scale)
    exponents_d = torch.arange(0, head_dim(config), 2, dtype=torch.float32, device=device) / head_dim(config)
    return 1.0 / about["rope_theta"] ** exponents_d, 1.0


def head_dim(config: Any) -> int:
    """Dimensions of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
