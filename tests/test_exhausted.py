"""Lack of memory in every form, and nothing else."""

import pytest
import torch

from expo_lite.memory.machine import out_of_memory

LACKING = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB"),
    torch.OutOfMemoryError(""),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", LACKING, ids=str)
def test_each_form_is_known_alone_and_behind_another_error(error: BaseException) -> None:
    assert out_of_memory(error)
    with pytest.raises(ValueError, match="recorded") as caught:
        try:
            raise error
        finally:
            raise ValueError("the graph could not be recorded")
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
        ValueError("memory"),
    ],
    ids=str,
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not out_of_memory(error)


def test_the_cpus_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_an_error_that_was_put_in_anothers_place_on_purpose_is_not_looked_behind() -> None:
    with pytest.raises(ValueError, match="shapes") as caught:
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("shapes differ") from None
    assert not out_of_memory(caught.value)
