"""A GPU without a GPU: the project's own code on fake CUDA tensors, which have a device and a shape and no values.

Whatever looks at a value raises, as it would have to wait for the GPU, and could not be recorded as a CUDA graph. So
does every operator that gets or makes a tensor on the CPU; what is made from Python's numbers may be sent to the
device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from simulated_update import SimulatedPolicy, StandIn4bit, simulation
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

CUDA = torch.device("cuda")
SENDS = {getattr(torch.ops.aten, name).default for name in ("_to_copy", "lift_fresh", "detach")} | {
    torch.ops.prim.device.default
}
"""What makes a tensor from Python's numbers, and sends it to the device."""


class LeftOnTheCpu(Exception):
    """An operator that the CPU has a part in."""


class OnlyCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where an operator gets or makes a tensor on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in SENDS:
            for tensor in tree_iter((args, kwargs, out)):
                if isinstance(tensor, torch.Tensor) and tensor.device.type != "cuda":
                    raise LeftOnTheCpu(f"{func} with a tensor of shape {tuple(tensor.shape)} on the {tensor.device}")
        return out


class CudaPolicy(SimulatedPolicy):
    """A model in four bits on the fake GPU."""

    def materialise(self) -> None:
        """Give every tensor a fake storage on the GPU; tied ones stay tied."""
        with torch.device(CUDA):
            super().materialise()
        self.device = CUDA


def _dequantised(layer: StandIn4bit) -> torch.Tensor:
    return torch.empty(layer.out_features, layer.in_features, dtype=layer.compute_dtype, device=CUDA)


def _any_dequantised(weight: Any) -> torch.Tensor:
    dense: torch.Tensor = weight.dequantised() if hasattr(weight, "dequantised") else weight.detach()
    return dense


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Fake tensors on a GPU that is not there."""
    with (
        patch.object(StandIn4bit, "dequantised", _dequantised),
        patch("expo_lite.policy.merged.dequantised", _any_dequantised),
        simulation() as mode,
    ):
        yield mode
