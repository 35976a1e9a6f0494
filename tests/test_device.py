"""A GPU that torch cannot use is refused with the driver's version and a remedy, and never passed over in silence."""

import platform
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from expo_lite.commands.cli import run
from expo_lite.errors import ConfigError
from expo_lite.policy.device import compute_type, describe, find_device
from expo_lite.settings import machine

TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020).\nPlease update."
VERSION_FILE = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose device files and tools lie in a folder; at first it has none."""
    files = SimpleNamespace(
        device=tmp_path / "nvidia0", version=tmp_path / "version", dxg=tmp_path / "dxg", smi=tmp_path / "wsl" / "smi"
    )
    monkeypatch.setattr(machine, "DEVICE_FILES", (files.device, files.version))
    monkeypatch.setattr(machine, "WSL_DEVICE", files.dxg)
    monkeypatch.setattr(machine, "WSL_TOOL", files.smi)
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-45-generic")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return files


def lend_wsl(box: SimpleNamespace, version: str) -> None:
    box.dxg.touch()
    box.smi.parent.mkdir()
    box.smi.write_text(f"#!/bin/sh\n[ $1 = --query-gpu=driver_version ] && echo {version}\n")
    box.smi.chmod(0o755)


def too_old() -> bool:
    warnings.warn(TOO_OLD, stacklevel=1)
    return False


def test_a_gpu_is_seen_by_its_file_its_driver_or_by_wsl_s_tool(box: SimpleNamespace) -> None:
    assert not machine.has_gpu()
    assert machine.default_model() == "tiny"
    box.dxg.touch()
    assert not machine.has_gpu()  # of another maker: no tool beside it
    box.dxg.unlink()
    lend_wsl(box, "551.86")
    assert machine.has_gpu()
    assert machine.driver_version() == "551.86"
    box.dxg.unlink()
    assert not machine.has_gpu()
    box.version.write_text(VERSION_FILE)
    assert machine.has_gpu()
    assert machine.driver_version() == "535.183.01"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_the_user_hides_is_none(hidden: str, box: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    box.device.touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not machine.has_gpu()
    assert find_device() == torch.device("cpu")
    assert machine.default_model() == "tiny"


def test_a_gpu_that_torch_cannot_use_is_refused_with_the_reason(
    box: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.version.write_text(VERSION_FILE)
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match=r"driver is 535\.183\.01, .*CUDA 13\.0.*CUDA initialization: ") as caught:
        find_device()
    assert "CUDA_VISIBLE_DEVICES=-1" in str(caught.value)
    lend_wsl(box, "551.86")
    box.version.unlink()
    with pytest.raises(ConfigError, match=r"driver is 551\.86.* in Windows, not in WSL"):
        find_device()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="built without CUDA"):
        find_device()


def test_an_old_card_is_refused_and_turing_computes_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_120", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (6, 1))
    with pytest.raises(ConfigError, match=r"compute capability 6\.1, and torch .* has code for 7\.5 and newer"):
        find_device()
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        device = find_device()
        assert compute_type(device) == expected
        assert describe(device) == "cuda: NVIDIA card"
    assert compute_type(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("words", ["train --model tiny --steps 1", "eval tiny --problems 1"])
def test_no_command_computes_on_the_cpu_where_there_is_a_gpu(
    words: str, box: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box.version.write_text(VERSION_FILE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in machine.ALLOCATOR_SETTINGS:
        monkeypatch.setenv(name, "")  # the command line sets it for the whole process
    assert run(words.split()) == 2
    assert "535.183.01" in capsys.readouterr().err


@pytest.mark.parametrize(("load", "says"), [(0.1, False), (2.4, False), (9.0, True)])
def test_a_busy_machine_is_said_to_be(load: float, says: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert machine.load_of_others() == ("this machine is busy (load 9.0), so steps take longer" if says else None)


def test_the_allocator_s_setting_is_made_where_it_works(box: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**given: str) -> dict[str, str]:
        environment = dict(given)
        machine.prepare_torch(environment)
        assert [environment.pop(name) for name in machine.PRODUCT_CACHES] == ["64", "64"]
        assert environment.pop("OMP_WAIT_POLICY") == "PASSIVE"
        return {name: value for name, value in environment.items() if name not in given}

    kept = {"LRU_CACHE_CAPACITY": "7", "OMP_WAIT_POLICY": "ACTIVE"}
    machine.prepare_torch(kept)
    assert (kept["LRU_CACHE_CAPACITY"], kept["OMP_WAIT_POLICY"]) == ("7", "ACTIVE")
    assert made() == {}  # no GPU
    box.device.touch()
    chosen = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert made() == chosen
    assert made(PYTORCH_ALLOC_CONF="") == {}
    assert made(PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64") == {}
    monkeypatch.setattr(platform, "release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    assert made() == {}
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-45-generic")
    box.dxg.touch()
    assert made() == {}
