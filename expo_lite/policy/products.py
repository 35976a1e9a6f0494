"""Matrix products of fp32 on a CPU through oneDNN, which torch has beside MKL and uses for other types only.

On an AMD EPYC (AVX-512) oneDNN is 5 to 25 per cent faster at hundreds of rows; with the weight laid out for it
beforehand it is 2.4 times as fast as MKL at 32 rows, and 2.3 to 2.5 times at 128 and at 8. No gradient goes through
these: what needs one has a backward of its own.

The operators are torch's private ones, which another version may not have: `has_onednn` looks for them, and torch's own
products stand beside them.

Axes: N rows, I input and O output features.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

PACKED_FOR_ROWS = 32
"""Rows that a packed weight is laid out for; it serves any number."""
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")


def has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of such tensors go through oneDNN."""
    return (
        device.type == "cpu"
        and dtype == torch.float32
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    )


def linear(x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """The product x W' (+ bias), without a gradient; torch.nn.functional.linear where oneDNN does not apply."""
    if x_NI.dtype == weight_OI.dtype and has_onednn(weight_OI.device, weight_OI.dtype):
        return _onednn(x_NI, weight_OI, bias_O)
    return torch.nn.functional.linear(x_NI, weight_OI, bias_O)


class Product(Protocol):
    """A weight that inputs are multiplied with."""

    def __call__(self, x_NI: torch.Tensor) -> torch.Tensor:
        """The product x W' (+ bias)."""

    def added(self, x_NI: torch.Tensor, residual_NO: torch.Tensor) -> torch.Tensor:
        """The same, added to the residual stream."""


def product(weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> Product:
    """The fastest product with this weight at few rows; a packed one has a copy, and needs the weight no more."""
    if has_onednn(weight_OI.device, weight_OI.dtype):
        return PackedProduct(torch.ops.mkldnn._reorder_linear_weight(weight_OI, PACKED_FOR_ROWS), bias_O)
    return PlainProduct(weight_OI, bias_O)


@dataclass(frozen=True, slots=True)
class PlainProduct:
    """By torch, on any device and in any type."""

    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None = None

    def __call__(self, x_NI: torch.Tensor) -> torch.Tensor:
        """The product x W' (+ bias)."""
        return torch.nn.functional.linear(x_NI, self.weight_OI, self.bias_O)

    def added(self, x_NI: torch.Tensor, residual_NO: torch.Tensor) -> torch.Tensor:
        """The same, added to the residual stream."""
        if self.bias_O is not None:
            residual_NO = residual_NO + self.bias_O
        return torch.addmm(residual_NO, x_NI, self.weight_OI.t())


@dataclass(frozen=True, slots=True)
class PackedProduct:
    """By oneDNN, with the weight in the layout that few rows are fastest with."""

    packed: torch.Tensor
    bias_O: torch.Tensor | None = None

    def __call__(self, x_NI: torch.Tensor) -> torch.Tensor:
        """The product x W' (+ bias)."""
        return _onednn(x_NI, self.packed, self.bias_O)

    def added(self, x_NI: torch.Tensor, residual_NO: torch.Tensor) -> torch.Tensor:
        """The same, added to the residual stream."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_NI, residual_NO, self.packed, self.bias_O, "add"
        )
        return result


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
