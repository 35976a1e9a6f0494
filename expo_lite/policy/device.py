"""The device that everything computes on, found once, in one place; a GPU that torch cannot use is never passed over.

What has run where: a card of no kind has been seen yet; the tests put their answers in torch's mouth.
"""

import warnings

import torch

from expo_lite.errors import ConfigError
from expo_lite.settings.machine import ON_THE_CPU, driver_version, has_gpu, in_wsl

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""The oldest series of drivers that runs programs built for a major version of CUDA
(docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility)."""


def find_device() -> torch.device:
    """The GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is an NVIDIA GPU that the user has not hidden, and torch cannot use it.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if usable:
        _check_capability()
        return torch.device("cuda")
    if has_gpu():
        hints = [str(warning.message).strip().splitlines()[0] for warning in said]
        raise ConfigError(
            f"There is an NVIDIA GPU here, and torch {torch.__version__} cannot use it: {_reason(hints)} "
            f"To run on the CPU all the same, which is slow for all but tiny models, set {ON_THE_CPU}."
        )
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {torch.get_num_threads()} threads"


def compute_type(device: torch.device) -> torch.dtype:
    """What a model computes in: bf16 on a GPU that has it, fp16 on an older one (Turing), fp32 on a CPU.

    On most CPUs bf16 is unusably slow.
    """
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _reason(hints: list[str]) -> str:
    """What is wrong and what to do, in sentences."""
    built_for, driver = torch.version.cuda, driver_version()
    if built_for is None:
        return "it was built without CUDA. Install torch from the index for CUDA that pytorch.org names."
    least = LEAST_DRIVER.get(int(built_for.split(".")[0]), max(LEAST_DRIVER.values()))
    if driver is not None and int(driver.split(".")[0]) < least:
        where = " in Windows, not in WSL" if in_wsl() else ""
        return (
            f"the driver is {driver}, and CUDA {built_for}, which torch was built for, needs {least} or newer. Install "
            f"a newer driver{where}, or a torch that was built for an older CUDA."
        )
    seen = f" It says: {' '.join(hints)}" if hints else ""
    return (
        f"the driver ({driver or 'of unknown version'}) would do for CUDA {built_for}.{seen} See whether nvidia-smi "
        "finds the GPU; a container must be started with it (--gpus all), and after a suspend the driver may have to "
        "be loaded anew."
    )


def _check_capability() -> None:
    """Raise ConfigError where torch has no code for a card as old as this one."""
    card = torch.cuda.get_device_capability()
    known = [_number(name) for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    if known and card < min(known):
        least, own = (".".join(map(str, capability)) for capability in (min(known), card))
        raise ConfigError(
            f"The GPU {torch.cuda.get_device_name()} has compute capability {own}, and torch {torch.__version__} has "
            f"code for {least} and newer. Install a torch that was built for an older CUDA, or set {ON_THE_CPU} to run "
            "on the CPU."
        )


def _number(name: str) -> tuple[int, int]:
    """The capability in a name such as sm_75 or sm_120a."""
    digits = "".join(c for c in name if c.isdigit())
    return int(digits[:-1]), int(digits[-1])
