"""Whether an error is a lack of memory, in every form that libraries give it; without torch.

The texts are those of torch 2.14 (its allocators on a GPU and a CPU, cuBLAS, cuDNN), of CUDA's runtime and of Triton.
oneDNN, and a system that starts no more threads or maps no more libraries, do not speak of memory at all.
cuBLAS says NOT_INITIALIZED where it found no memory for its handle; on a GPU that works at all it has no other reason.
"""

import errno
import os
from pathlib import Path

from expo_lite.errors import ModelError

NEEDED_GIB = 0.9
"""Address space that loading and training `tiny` takes once torch is there. In half of it oneDNN ends the process."""
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
    """Whether it is one, or was raised while one was being handled, as when a CUDA graph was being recorded."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        named = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"  # torch's class
        named = named or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        if named or any(form in str(cause) for form in FORMS):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


def free_ram_gib() -> float | None:
    """What this process can still get of main memory: what the machine has, within its own limit; None if not known."""
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free = int(meminfo["MemAvailable"].split()[0]) / 2**20
    except (OSError, LookupError, ValueError):
        return None
    left = address_space_gib()
    return free if left is None else min(free, left)


def address_space_gib() -> float | None:
    """What `ulimit -v` leaves this process; None where there is no such limit, or it is not known."""
    try:
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError, LookupError, ValueError):
        return None
    return None if limit == resource.RLIM_INFINITY else max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0) / 2**30


def check_address_space() -> None:
    """Raise ModelError where there is too little to load any model: some libraries crash instead of saying so."""
    left = address_space_gib()
    if left is not None and left < NEEDED_GIB:
        raise ModelError(
            f"The limit on this process's memory (ulimit -v) leaves {left:.1f} GiB, and a model takes at least "
            f"{NEEDED_GIB} GiB. Raise the limit, as with `ulimit -v unlimited`."
        )
