"""The seven projections in training on a CPU: less work than peft and bitsandbytes, the same result to fp32 rounding.

A projection has a backward of its own, which keeps its input and nothing else. Under gradient checkpointing it can
remember its product (`keep=True`): the backward pass then recomputes norms, activations and attention alone, a few per
cent of the work, and not the matrix products.

Axes: N tokens of all rows, I input and O output features, r rank.
"""

import contextlib
import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from expo_lite.policy.merged import dequantised
from expo_lite.policy.products import linear

Product = Callable[[], torch.Tensor]


def _dense(weight: Any) -> torch.Tensor:
    dense = dequantised(weight)
    return dense.float() if dense.dtype.itemsize < 4 else dense


def _adapted(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def release_freed_memory() -> None:
    """Give the system back what is freed: glibc keeps it else, and the update's peak comes on top. Milliseconds."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
            ctypes.CDLL(None).malloc_trim(0)


def use_lean_projections(model: torch.nn.Module) -> None:
    """From now on each LoRA projection of the model computes with `_Projection`."""
    layers = _adapted(model)
    kinds: set[Any] = {type(layer) for layer in layers}
    lean: dict[Any, Any] = {kind: type(kind.__name__, (kind,), {"forward": _lean}) for kind in kinds}
    for layer in layers:
        layer.__class__ = lean[type(layer)]


def _lean(layer: Any, x: torch.Tensor) -> Any:
    base, factors, scale = layer.base_layer, (None, None), 0.0
    if not layer.disable_adapters:
        (adapter,) = layer.active_adapters
        factors, scale = (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight), layer.scaling[adapter]
    y_NO = _Projection.apply(x.flatten(0, -2), *factors, base.weight, base.bias, scale)
    return y_NO.view(*x.shape[:-1], -1)


class _Projection(torch.autograd.Function):
    """x W' + scale x A' B' (+ bias) with W dequantised when it is needed, forward and backward, and not kept.

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
    ) -> torch.Tensor:
        def product() -> torch.Tensor:
            y_NO = linear(x_NI, _dense(weight), bias_O)
            return y_NO if a_rI is None or b_Or is None else y_NO.addmm_(x_NI @ a_rI.t(), b_Or.t(), alpha=scale)

        ctx.save_for_backward(x_NI, a_rI, b_Or)
        ctx.weight, ctx.scale = weight, scale
        return _memory.run(product)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x_NI, a_rI, b_Or = ctx.saved_tensors
        (dy_NO,) = gradients
        if a_rI is None:
            return linear(dy_NO, _dense(ctx.weight).t()), *[None] * 5
        down_Nr = (dy_NO @ b_Or).mul_(ctx.scale)
        da_rI = down_Nr.t() @ x_NI
        db_Or = (dy_NO.t() @ (x_NI @ a_rI.t())).mul_(ctx.scale)
        dx_NI = linear(dy_NO, _dense(ctx.weight).t()).addmm_(down_Nr, a_rI) if ctx.needs_input_grad[0] else None
        return dx_NI, da_rI, db_Or, None, None, None


class _Memory:
    """Whether products are computed, computed and kept, or taken from what was kept.

    The two passes over a checkpointed layer ask for its products in the same order.
    """

    def __init__(self) -> None:
        self.keep = False
        self.run: Callable[[Product], torch.Tensor] = _compute

    @contextlib.contextmanager
    def doing(self, run: Callable[[Product], torch.Tensor]) -> Iterator[None]:
        before, self.run = self.run, run
        try:
            yield
        finally:
            self.run = before


def _compute(product: Product) -> torch.Tensor:
    return product()


_memory = _Memory()


@contextlib.contextmanager
def kept_products(keep: bool) -> Iterator[None]:
    """Whether layers that are run while this is open keep their products for the backward pass."""
    before, _memory.keep = _memory.keep, keep
    try:
        yield
    finally:
        _memory.keep = before


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The `context_fn` of torch's checkpoint: what surrounds the two passes over a layer."""
    if not _memory.keep:
        return contextlib.nullcontext(), contextlib.nullcontext()
    kept: deque[torch.Tensor] = deque()

    def record(product: Product) -> torch.Tensor:
        result = product()
        kept.append(result.detach())
        return result

    def replay(_product: Product) -> torch.Tensor:
        return kept.popleft()

    return _memory.doing(record), _memory.doing(replay)


def product_bytes(model: torch.nn.Module) -> int:
    """Bytes that one token's products take."""
    return sum(layer.out_features * 4 for layer in _adapted(model))
