"""Whether an error is a lack of memory, in every form that libraries give it; without torch.

The texts are those of torch 2.14 (its allocators on a GPU and a CPU, cuBLAS, cuDNN), of CUDA's runtime and of Triton.
cuBLAS says NOT_INITIALIZED where it found no memory for its handle; on a GPU that works at all it has no other reason.
"""

FORMS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether it is one, or was raised while one was being handled, as when a CUDA graph was being recorded."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        named = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"  # torch's class
        if named or any(form in str(cause) for form in FORMS):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
