"""Decoding steps recorded as CUDA graphs, one for each shape: a replay costs the host one launch, not hundreds.

What has run where: nothing here has been run. That a step may be recorded at all is held by a test without a GPU: on
fake CUDA tensors it looks at no value and leaves nothing on the CPU.
"""

import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch

from expo_lite.memory.machine import out_of_memory


class Replays:
    """Runs a step: the first time of each shape as it is, while it is recorded; then from the recording.

    A step must read and write the same buffers every time. Recordings share one pool of memory, and go with this
    object. Where a step cannot be recorded, it and all others run as they are, with a warning.
    """

    def __init__(self) -> None:
        """Nothing recorded yet."""
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None
        self._failed = False

    def __call__(self, shape: Hashable, step: Callable[[], None]) -> None:
        """Run the step once."""
        if shape in self._graphs:
            self._graphs[shape].replay()
            return
        if self._failed:
            step()
            return
        # this is the step itself; libraries set themselves up in it, which must not happen while it is recorded
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                step()  # recorded, not run
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._failed = True
            warnings.warn(f"Decoding goes on without CUDA graphs, slower: {error}", stacklevel=2)
            return
        self._pool = graph.pool()
        self._graphs[shape] = graph
