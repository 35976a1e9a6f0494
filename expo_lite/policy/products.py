"""Matrix products on a CPU: fp32 through oneDNN, which torch otherwise uses for other types only.

On an AMD EPYC (AVX-512) oneDNN is 5 to 25 per cent faster than MKL at hundreds of rows. A weight laid out for oneDNN
beforehand is faster still at few rows, if it is large: measured at 8 to 72 rows, it takes 0.5 to 1 times as long from
576 x 576 on (SmolLM2), and 1.3 to 3 times as long below 512 x 256 (`tiny`), where the call itself costs more than the
product. No gradient goes through these products: what needs one has a backward pass of its own.

The operators are private to torch; every version that the package takes has them where it has oneDNN.

Axes: N rows, I input and O output features.
"""

import torch

PACKED_FOR_ROWS = 32
"""Rows that a packed weight is laid out for; it serves any number."""
PACKED_FROM = 2**18
"""Numbers in the smallest weight that is packed."""


def has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether products of these tensors go through oneDNN."""
    is_here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_here and device.type == "cpu" and dtype == torch.float32


def linear(x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """The product x W' (+ bias), without a gradient; `torch.nn.functional.linear` where oneDNN does not apply."""
    if x_NI.dtype == weight_OI.dtype and has_onednn(weight_OI.device, weight_OI.dtype):
        return _onednn(x_NI, weight_OI, bias_O)
    return torch.nn.functional.linear(x_NI, weight_OI, bias_O)


class Product:
    """A weight that many inputs are multiplied with, packed for oneDNN where that is faster."""

    def __init__(
        self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None, *, most_bytes: float = float("inf")
    ):
        """Pack the weight if it is large enough, and not larger than `most_bytes`: a packed weight is a copy."""
        self.bias_O = bias_O
        is_of_use = weight_OI.numel() >= PACKED_FROM and weight_OI.nbytes <= most_bytes
        self.is_packed = is_of_use and has_onednn(weight_OI.device, weight_OI.dtype)
        self.weight: torch.Tensor = (
            torch.ops.mkldnn._reorder_linear_weight(weight_OI, PACKED_FOR_ROWS) if self.is_packed else weight_OI
        )

    def __call__(self, x_NI: torch.Tensor) -> torch.Tensor:
        """The product x W' (+ bias)."""
        if self.is_packed:
            return _onednn(x_NI, self.weight, self.bias_O)
        return torch.nn.functional.linear(x_NI, self.weight, self.bias_O)

    def added(self, x_NI: torch.Tensor, residual_NO: torch.Tensor) -> torch.Tensor:
        """The product added to the residual stream."""
        if self.is_packed:
            sum_NO: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x_NI, residual_NO, self.weight, self.bias_O, "add"
            )
            return sum_NO
        if self.bias_O is not None:
            residual_NO = residual_NO + self.bias_O
        return torch.addmm(residual_NO, x_NI, self.weight.t())


def _onednn(x_NI: torch.Tensor, weight: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    product_NO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight, bias_O, "none", [], "")
    return product_NO
