"""Whether this machine's NF4 is right: bitsandbytes reads some weights back wrongly on some CPUs.

Measured with bitsandbytes 0.50.2 on a CPU with AVX-512: a weight whose rows are a multiple of 16 long, but not of 64 (a
block), comes back with an error of 24% and more; all other lengths with the 9% that rounding to 4 bits costs.
"""

from collections.abc import Iterable

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

BLOCK = 64
"""Weights that share a scale. Rows of whole blocks have been right everywhere."""
ROWS = 64
MOST_ERROR = 0.15
"""Of normally distributed weights; 0.092 is what rounding costs."""


def nf4_error(width: int, device: torch.device) -> float:
    """How far weights of `width` inputs are from themselves after NF4 and back, of their norm; 0.092 is right."""
    weight_OI = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0)).to(device)
    packed, state = quantize_4bit(weight_OI, quant_type="nf4", compress_statistics=True)
    return float((dequantize_4bit(packed, state) - weight_OI).norm() / weight_OI.norm())


def wrong_widths(widths: Iterable[int], device: torch.device) -> dict[int, float]:
    """Those of the widths that this machine's NF4 gets wrong, each with its error; whole blocks are not looked at."""
    errors = {width: nf4_error(width, device) for width in sorted(set(widths)) if width % BLOCK}
    return {width: error for width, error in errors.items() if not error <= MOST_ERROR}
