"""The device that everything computes on, and what it computes right; a GPU that torch cannot use is an error.

Not yet run on a GPU; the tests fake torch's answers.
"""

import re
import warnings
from collections.abc import Iterable

import torch

from expo_lite.errors import ConfigError
from expo_lite.settings.machine import ON_THE_CPU, driver_version, has_gpu, in_wsl
from expo_lite.terminal import counted

NF4_BLOCK = 64
"""Weights that share a scale. Rows of whole blocks have been right on every machine."""
MOST_NF4_ERROR = 0.15
"""Relative error of normally distributed weights in NF4; rounding alone costs 0.092."""


def find_device() -> torch.device:
    """The GPU if there is one, else the CPU.

    Raises:
        ConfigError: torch cannot use an NVIDIA GPU that the user has not hidden.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if usable:
        _check_capability()
        return torch.device("cuda")
    if has_gpu():
        hints = "".join(f" It says: {str(warning.message).strip().splitlines()[0]}" for warning in said)
        raise ConfigError(
            f"torch {torch.__version__} cannot use the NVIDIA GPU of this machine: {_reason()}{hints} "
            f"To run on the CPU, which is slow for all but tiny models, set {ON_THE_CPU}."
        )
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """Name the device."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {counted(torch.get_num_threads(), 'thread')}"


def compute_type(device: torch.device) -> torch.dtype:
    """The type a model computes in: bf16 on a GPU that has it, fp16 on an older one (Turing), fp32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _reason() -> str:
    """Say what is wrong and what to do."""
    built_for = torch.version.cuda
    if built_for is None:
        return "it was built without CUDA. Install torch from the index for CUDA that pytorch.org names."
    where = " in Windows, not in WSL" if in_wsl() else ""
    return (
        f"the driver is {driver_version() or 'of an unknown version'}, and torch was built for CUDA {built_for}. "
        f"Update the driver{where}, or install a torch built for an older CUDA. In a container, check that it was "
        "started with `--gpus all`."
    )


def _check_capability() -> None:
    """Raise ConfigError if torch has no code for a card as old as this one."""
    card = torch.cuda.get_device_capability()
    known = [(int(a), int(b)) for a, b in re.findall(r"sm_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))]
    if known and card < min(known):
        least, own = (".".join(map(str, capability)) for capability in (min(known), card))
        raise ConfigError(
            f"The GPU {torch.cuda.get_device_name()} has compute capability {own}, and torch {torch.__version__} has "
            f"code for {least} and newer. Install a torch that was built for an older CUDA, or set {ON_THE_CPU} to run "
            "on the CPU."
        )


def nf4_error(width: int, device: torch.device) -> float:
    """Relative error of weights with `width` inputs after NF4 and back; 0.092 is right.

    bitsandbytes 0.50.2 on a CPU with AVX-512 reads rows back with an error of 24% and more if their length is a
    multiple of 16 but not of 64.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight_OI = torch.randn(64, width, generator=torch.Generator().manual_seed(0)).to(device)
    packed, state = quantize_4bit(weight_OI, quant_type="nf4", compress_statistics=True)
    return float((dequantize_4bit(packed, state) - weight_OI).norm() / weight_OI.norm())


def wrong_widths(widths: Iterable[int], device: torch.device) -> dict[int, float]:
    """The widths that NF4 gets wrong on this machine, each with its error; whole blocks are not checked."""
    errors = {width: nf4_error(width, device) for width in sorted(set(widths)) if width % NF4_BLOCK}
    return {width: error for width, error in errors.items() if not error <= MOST_NF4_ERROR}
