"""Matrix products of fp32 on a CPU through oneDNN, which torch has beside MKL and uses for other types only.

On an AMD EPYC (2 cores, AVX-512) oneDNN is 5 to 25 per cent faster at hundreds of rows; with the weight laid out for it
beforehand it is 1.1 to 2.4 times as fast at 16 to 32 rows, and 1.1 to 3.4 times at 8. No gradient goes through these: what
needs one has a backward of its own.

Axes: N rows, I input and O output features.
"""

from collections.abc import Callable
from functools import partial

import torch

Linear = Callable[[torch.Tensor], torch.Tensor]

PACKED_FOR_ROWS = 32
"""Rows that a packed weight is laid out for; it serves any number."""


def _has_onednn(*tensors: torch.Tensor) -> bool:
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors
    )


def linear(x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """The product x W' (+ bias), without a gradient; torch.nn.functional.linear where oneDNN does not apply."""
    if _has_onednn(x_NI, weight_OI):
        return _onednn(x_NI, weight_OI, bias_O)
    return torch.nn.functional.linear(x_NI, weight_OI, bias_O)


def packed_linear(weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> Linear:
    """The same with a copy of the weight in the layout that few rows are fastest with."""
    if _has_onednn(weight_OI):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, PACKED_FOR_ROWS)
        return partial(_onednn, weight=packed, bias=bias_O)
    return partial(torch.nn.functional.linear, weight=weight_OI, bias=bias_O)


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
