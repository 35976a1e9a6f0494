"""The LoRA projections in training: less memory than peft with bitsandbytes, and the same result to rounding.

A projection has a backward pass of its own, which keeps its input and nothing else. Under gradient checkpointing it can
also remember its product (`kept_products`): the backward pass then recomputes norms, activations and attention alone, a
few per cent of the work, and not the matrix products. The last product of a layer is never computed again, for nothing
of the layer's backward pass needs it. Weights may be in four bits or dense, in fp32 or in 16 bits, on a CPU or a GPU;
the adapter is in fp32, as in peft. Not yet run on a GPU.

Axes: N tokens of all rows, I input and O output features, r rank.
"""

import contextlib
import ctypes
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from expo_lite.policy.base import having
from expo_lite.policy.merged import dequantised
from expo_lite.policy.products import linear
from expo_lite.settings.models import FAMILIES

Compute = Callable[[], torch.Tensor]
Run = Callable[[Compute, bool], torch.Tensor]
"""Gives the product of a projection; told whether that is the layer's last."""


def release_freed_memory() -> None:
    """Give freed memory back to the system, which glibc would keep; takes milliseconds."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
            ctypes.CDLL(None).malloc_trim(0)


def use_lean_projections(model: Any) -> None:
    """Make each LoRA projection of the model compute with `_Projection`."""
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    kinds: set[Any] = {type(layer) for layer in layers.values()}
    lean: dict[Any, Any] = {kind: type(kind.__name__, (kind,), {"forward": _lean}) for kind in kinds}
    for name, layer in layers.items():
        layer.__class__ = lean[type(layer)]
        # without a norm after it, it is added to the residual stream, and that is all
        family = FAMILIES.get(model.config.model_type)
        layer.ends_layer = name.endswith("mlp.down_proj") and family is not None and not family.norms[3]


def _lean(layer: Any, x: torch.Tensor) -> Any:
    base, factors, scale = layer.base_layer, (None, None), 0.0
    if not layer.disable_adapters:
        (adapter,) = layer.active_adapters
        factors, scale = (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight), layer.scaling[adapter]
    y_NO = _Projection.apply(x.flatten(0, -2), *factors, base.weight, base.bias, scale, layer.ends_layer)
    return y_NO.view(*x.shape[:-1], -1)


class _Projection(torch.autograd.Function):
    """x W' + scale x A' B' (+ bias); W is dequantised when it is needed, forward and backward, and not kept.

    Without A and B, as the reference is computed, x W' (+ bias).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: torch.Tensor,
        a_rI: torch.Tensor | None,
        b_Or: torch.Tensor | None,
        weight: Any,
        bias_O: torch.Tensor | None,
        scale: float,
        ends_layer: bool,
    ) -> torch.Tensor:
        def product() -> torch.Tensor:
            y_NO = linear(x_NI, _dense(weight, x_NI), bias_O)
            if a_rI is None or b_Or is None:
                return y_NO
            inner_Nr = x_NI.to(a_rI.dtype) @ a_rI.t()
            return y_NO.to(a_rI.dtype).addmm_(inner_Nr, b_Or.t(), alpha=scale).to(x_NI.dtype)

        ctx.save_for_backward(x_NI, a_rI, b_Or)
        ctx.weight, ctx.scale = weight, scale
        return _memory.run(product, ends_layer)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x_NI, a_rI, b_Or = ctx.saved_tensors
        (dy_NO,) = gradients
        if a_rI is None:
            return linear(dy_NO, _dense(ctx.weight, dy_NO).t()), *[None] * 6
        exact_NI, exact_NO = x_NI.to(a_rI.dtype), dy_NO.to(a_rI.dtype)
        inner_Nr = (exact_NO @ b_Or).mul_(ctx.scale)
        da_rI = inner_Nr.t() @ exact_NI
        db_Or = (exact_NO.t() @ (exact_NI @ a_rI.t())).mul_(ctx.scale)
        dx_NI = None
        if ctx.needs_input_grad[0]:
            dx_NI = linear(dy_NO, _dense(ctx.weight, dy_NO).t()).to(a_rI.dtype)
            dx_NI = dx_NI.addmm_(inner_Nr, a_rI).to(x_NI.dtype)
        return dx_NI, da_rI, db_Or, None, None, None, None


def _dense(weight: Any, like: torch.Tensor) -> torch.Tensor:
    return dequantised(weight).to(like.dtype)


class _Memory:
    """The mode of products: computed, computed and kept, or taken from those that were kept.

    The two passes over a checkpointed layer ask for its products in the same order.
    """

    def __init__(self) -> None:
        self.keep = False
        self.run: Run = lambda compute, ends_layer: compute()


_memory = _Memory()


def kept_products(keep: bool) -> AbstractContextManager[None]:
    """Choose whether the layers run in this context keep their products for the backward pass."""
    return having(_memory, keep=keep)


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The `context_fn` of torch's checkpoint: the contexts of the two passes over a layer."""
    keep, kept = _memory.keep, deque[torch.Tensor]()

    def first(compute: Compute, ends_layer: bool) -> torch.Tensor:
        result = compute()
        if ends_layer:  # the second pass ends here, before anything is done with this
            kept.append(result.new_full((), torch.nan).expand(result.shape))
        elif keep:
            kept.append(result.detach())
        return result

    def again(compute: Compute, ends_layer: bool) -> torch.Tensor:
        return kept.popleft() if keep or ends_layer else compute()

    return having(_memory, run=first), having(_memory, run=again)
