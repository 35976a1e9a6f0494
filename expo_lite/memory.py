"""How much memory a run has needed."""

import resource
import sys

import torch


def peak_memory_gib() -> float:
    """The process's peak so far, in GiB: of the GPU's allocator where there is one, else of resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def reset_peak_memory() -> None:
    """Count the GPU's peak anew; resident memory cannot be."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
