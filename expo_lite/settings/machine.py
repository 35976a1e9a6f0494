"""What this machine has, as far as settings depend on it; nothing heavy is imported to find out."""

import importlib.util
from pathlib import Path
from typing import Literal

Backend = Literal["auto", "unsloth", "hf"]
Sampler = Literal["auto", "own", "native", "vllm"]


def has_gpu() -> bool:
    """Whether an NVIDIA GPU's device file is there."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def default_model() -> str:
    """The model for those who name none."""
    return "qwen2.5-3b" if has_gpu() else "tiny"


def backend_rules(backend: Backend | None, sampler: Sampler | None) -> list[tuple[bool, str]]:
    """What can be known of a backend and a sampler without importing either; see `check_rules`."""
    wants_vllm = sampler == "vllm"
    return [
        (
            backend != "unsloth" or is_installed("unsloth"),
            "backend 'unsloth' is not installed: pip install 'expo-lite[unsloth]', or take --backend hf.",
        ),
        (
            not wants_vllm or backend != "hf",
            "sampler 'vllm' works through Unsloth; leave --backend hf out, or take --sampler native.",
        ),
        (not wants_vllm or has_gpu(), "sampler 'vllm' needs a GPU; take --sampler own."),
        (
            not wants_vllm or (is_installed("vllm") and is_installed("unsloth")),
            "sampler 'vllm' is not installed: pip install 'expo-lite[vllm]', or take --sampler native.",
        ),
    ]
