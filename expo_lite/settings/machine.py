"""Find out what settings depend on of this machine, without importing anything heavy."""

import contextlib
import gc
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from expo_lite.errors import ConfigError

Backend = Literal["auto", "unsloth", "hf"]
Sampler = Literal["auto", "own", "native"]

ON_THE_CPU = "CUDA_VISIBLE_DEVICES=-1"
"""Runs on the CPU although there is a GPU: CUDA's own setting, which processes started here inherit."""
DEVICE_FILES = (Path("/dev/nvidia0"), Path("/proc/driver/nvidia/version"))
WSL_DEVICE = Path("/dev/dxg")
"""A GPU of any maker, lent by Windows to its Linux; whether it is NVIDIA's shows by the tool beside it."""
WSL_TOOL = Path("/usr/lib/wsl/lib/nvidia-smi")
NVIDIA_SMI_TIMEOUT_S = 10.0
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Names of the variable with the settings of torch's allocator; the second is the older one."""
PRODUCT_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The number of prepared products that oneDNN, and torch above it, keep by shape: 1,024 each by default."""
KEPT_PRODUCTS = "64"
"""The products of a step, and no more: each step has shapes of its own, and leaves 4 MiB behind (`tiny`, 100 steps)."""


def has_gpu() -> bool:
    """True if there is an NVIDIA GPU that the user has not hidden, even if torch cannot use it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return any(path.exists() for path in DEVICE_FILES) or (in_wsl() and nvidia_smi() is not None)


def in_wsl() -> bool:
    """True on a Linux inside Windows, or a container in one."""
    return WSL_DEVICE.exists() or "microsoft" in platform.release().lower()


def nvidia_smi() -> str | None:
    """The driver's own tool, which on WSL2 is not always on the path."""
    return shutil.which("nvidia-smi") or (str(WSL_TOOL) if WSL_TOOL.exists() else None)


def ask_driver(what: str) -> list[str]:
    """Ask nvidia-smi for one of its fields: a value for each GPU, or nothing if it does not answer."""
    command = [nvidia_smi() or "nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def gpu_names() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them: its own entries where it is set, else numbers."""
    if not has_gpu():
        return []
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [entry.strip() for entry in visible.split(",") if entry.strip()]
    return ask_driver("index") or ["0"]


def driver_version() -> str | None:
    """The version of the NVIDIA driver, by its own file or tool."""
    try:
        found = re.search(r"\b(\d{3,}(?:\.\d+)+)\b", DEVICE_FILES[1].read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1] if found else next(iter(ask_driver("driver_version")), None)


def prepare_torch(environment: MutableMapping[str, str]) -> None:
    """Settings of torch that keep a long run's memory from growing and its steps short. What the user has set stays.

    Threads that wait for others sleep. By default they spin, even while another program has the core that they wait
    for: on a busy machine a step of `tiny` took 107 s with two threads, and 12 s with this. Results are the same. On a
    CPU few products are kept ready. A GPU's memory is mapped in pieces that can grow, so that phases of unlike sizes
    leave no holes; not where the driver cannot do it (WSL, Jetson boards). It must be called before torch starts.
    """
    for name in PRODUCT_CACHES:
        environment.setdefault(name, KEPT_PRODUCTS)
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    taken = any(name in environment for name in ALLOCATOR_SETTINGS)
    able = sys.platform == "linux" and platform.machine() == "x86_64" and not in_wsl()
    if able and not taken and has_gpu():
        environment[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"


def load_of_others() -> str | None:
    """Say that other programs keep this machine busy; None if they leave a core free."""
    load = os.getloadavg()[0]
    return (
        f"this machine is busy (load {load:.1f}), so steps take longer" if load > (os.cpu_count() or 1) + 0.5 else None
    )


@contextlib.contextmanager
def importing(package: str) -> Iterator[None]:
    """Import a package, and what it stands on, with the garbage collector off; nothing happens if it is here.

    torch, transformers and peft make half a million objects that stay. To walk over them again and again while they are
    made, and once more at the end of the process, takes a third of a start.
    """
    if package in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


EXTRAS = ("reasoning-gym", "unsloth", "ray", "trl", "tensorboard", "wandb", "trackio")


def is_installed(package: str) -> bool:
    """True if a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def installed_version(package: str) -> str | None:
    """The version of a package, which is not imported; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def takes_unsloth(backend: Backend) -> bool:
    """True if this backend is Unsloth: as asked for, else where it is installed and there is a GPU."""
    return backend == "unsloth" or (backend == "auto" and has_gpu() and is_installed("unsloth"))


def missed_unsloth() -> str | None:
    """Say what a GPU is without, if Unsloth is not installed; None if nothing is missed."""
    if not has_gpu() or is_installed("unsloth"):
        return None
    return (
        "Unsloth is not installed. It brings fused kernels for the update, and moves what the update keeps to main "
        "memory; sampling does not need it."
    )


def default_model() -> str:
    """The model for those who name none."""
    return "qwen2.5-3b" if has_gpu() else "tiny"


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra (expo-lite is on no package index), or else a package."""
    if extra not in EXTRAS:
        return f"`uv pip install {extra}`"
    return f"in the clone, `uv sync --extra {extra}` or `pip install '.[{extra}]'`"


def check_backend(backend: Backend | None) -> None:
    """Raise ConfigError for a backend that is not installed; it is not imported."""
    if backend == "unsloth" and not is_installed("unsloth"):
        hint = f"{how_to_install('unsloth')}; or take --backend hf."
        raise ConfigError(f"backend 'unsloth' is not installed: {hint}")
