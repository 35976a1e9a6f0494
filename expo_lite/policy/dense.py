"""Faster sampling on a CPU: the base weight and the adapter of each projection, merged into one dense matrix for a while.

A CPU dequantises a four-bit weight at every call, and the adapter adds two small matrix products to each. While sampling, with
nothing to train, one fp32 product does. The memory is that of the dense model, which is why a GPU samples without this.
The result differs from the unmerged model by fp32 rounding alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.nn.modules import Params4bit
from peft.tuners.lora import LoraLayer


@contextlib.contextmanager
def dense_weights(model: torch.nn.Module) -> Iterator[None]:
    """While this is open, each LoRA projection of the model computes with its merged dense weight; inference only."""
    replaced: list[Any] = []
    try:
        for module in model.modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                layer.forward = _forward(layer)
                replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            del layer.forward  # the class's own is behind it


@torch.no_grad()
def _forward(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    base = layer.base_layer
    weight = base.weight
    if isinstance(weight, Params4bit):
        weight = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).to(torch.float32)
    if not layer.disable_adapters:
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
    return partial(torch.nn.functional.linear, weight=weight, bias=base.bias)
