"""The main memory of this machine, and the errors of running out of memory; without torch.

The texts are those of torch 2.14 (its allocators on a GPU and a CPU, cuBLAS, cuDNN), of CUDA's runtime and of Triton.
oneDNN, and a system that starts no more threads or maps no more libraries, do not speak of memory at all. cuBLAS says
NOT_INITIALIZED if it has no memory for its handle; on a GPU that works it has no other reason.
"""

import errno
import os
from pathlib import Path

from expo_lite.errors import first_line

FORMS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "could not create a primitive",  # oneDNN, also "a primitive descriptor ..."
    "could not create a memory",
    "could not execute a primitive",
    "can't start new thread",
    "Cannot allocate memory",  # the C library's, of a process, a map or a thread
    "failed to map segment from shared object",
    "bad_alloc",
)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is a lack of memory, or was raised while one was handled (recording a CUDA graph)."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's class
    named = named or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if named or any(form in str(error) for form in FORMS):
        return True
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return cause is not None and cause is not error and out_of_memory(cause)


def short_of_memory(error: BaseException) -> str:
    """Say that memory has run out, and what to do."""
    return (
        f"Out of memory ({first_line(error)[:-1]}). Close other programs, raise the limit (ulimit -v, ulimit -u), or "
        "take a smaller model; `expo-lite plan` says what a run needs."
    )


def ram_bytes() -> float:
    """Return the machine's memory, or what its control group allows."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if file.exists() and (limit := file.read_text(encoding="ascii").strip()).isdigit():
            total = min(total, float(limit))
    return total
