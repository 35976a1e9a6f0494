"""Checkpoints: whole or not at all, whatever is cut, flipped or full."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import largest_file, small_disk
from safetensors.torch import load_file, save_file

from expo_lite.errors import CheckpointError
from expo_lite.run import checkpoint
from expo_lite.run.folder import write_atomically
from expo_lite.step.run import optimizer_tensors, restore_optimizer

ADAPTER = "adapter_model.safetensors"
FILES = (ADAPTER, "adapter_config.json", "optimizer.safetensors", "state.json")


def save(folder: Path, step: int, *, n: int = 100, keep: int = 2) -> Path:
    """A checkpoint whose content tells its step."""

    def write_adapter(where: Path) -> None:
        save_file({"a": torch.full((n,), float(step))}, where / ADAPTER)
        (where / "adapter_config.json").write_text(json.dumps({"r": 4}))

    return checkpoint.save(
        folder,
        step,
        write_adapter=write_adapter,
        optimizer={"w//exp_avg": torch.full((n,), step + 0.5)},
        state={"explanations": [{"note": f"ä {step}"}]},
        keep=keep,
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_whole(folder: Path, step: int) -> None:
    assert checkpoint.damage(folder) is None
    state = checkpoint.load_state(folder)
    assert (state["step"], state["explanations"]) == (step, [{"note": f"ä {step}"}])
    assert float(load_file(folder / ADAPTER)["a"][0]) == step
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    made = save(tmp_path, 7)
    assert made == tmp_path / "step-000007"
    check_whole(made, 7)
    assert checkpoint.newest_whole(tmp_path) == (made, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-000007"]  # nothing temporary stays


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 5, 40):
        save(tmp_path, step)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000005", "step-000040"]
    save(tmp_path, 41, keep=1)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000041"]


def test_a_users_own_copy_is_neither_read_nor_removed(tmp_path: Path) -> None:
    mine = tmp_path / "step-000001-good"
    shutil.copytree(save(tmp_path, 1), mine)
    (tmp_path / "step-000009").touch()  # a file is no checkpoint
    for step in (2, 3, 4):
        save(tmp_path, step)
    check_whole(mine, 1)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000003", "step-000004"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [cut, Path.unlink, replace_by_folder])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_an_older_checkpoint_is_found(
    name: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    harm(newer / name)
    found, lines = checkpoint.newest_whole(tmp_path)
    assert found == older
    (line,) = lines
    assert line.startswith(f"checkpoint '{newer}' is damaged: {name}")
    check_whole(older, 1)
    check_whole(save(tmp_path, 2), 2)  # and the damaged one is written anew when its step comes again


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_goes_unseen(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    whole = (folder / name).read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        (folder / name).write_bytes(flipped)
        assert checkpoint.damage(folder) == f"{name} is not what was written"
    (folder / name).write_bytes(whole)
    assert checkpoint.damage(folder) is None


def test_no_whole_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest_whole(tmp_path / "nothing") == (None, [])
    for step in (1, 2):
        cut(save(tmp_path, step) / ADAPTER)
    found, lines = checkpoint.newest_whole(tmp_path)
    assert found is None
    assert [line.split("'")[1] for line in lines] == [str(tmp_path / f"step-{step:06d}") for step in (2, 1)]


@pytest.mark.parametrize("n_kib", [20, 230])
def test_a_full_disk_leaves_what_was_there(n_kib: int, tmp_path: Path) -> None:
    """Two checkpoints of 8 KiB are there; in the room that is left a third, of 2 x 160 KiB, gets to various points."""
    with small_disk(tmp_path / "disk", 40 + n_kib) as disk:
        save(disk, 1), save(disk, 2)
        before = snapshot(disk)
        with pytest.raises(CheckpointError, match=r"Cannot save checkpoint .*step-000003.*make room on the disk"):
            save(disk, 3, n=40_000)
        assert snapshot(disk) == before
        found, lines = checkpoint.newest_whole(disk)
        assert (found, lines) == (disk / "step-000002", [])
        assert [path.name for path in disk.iterdir() if path.name.startswith(".")] == []
        check_whole(save(disk, 3), 3)  # there is room again


@pytest.mark.parametrize("call", ["mkdir", "write_bytes", "rename"])
def test_an_error_of_the_disk_at_any_call_leaves_what_was_there(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1), save(tmp_path, 2)
    before = snapshot(tmp_path)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            save(tmp_path, 3)
    assert snapshot(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            save(tmp_path, 3)
    assert {name: data for name, data in snapshot(tmp_path).items() if "000003" not in name} == before


def test_a_break_in_the_middle_of_a_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, twice, while the files are written."""
    save(tmp_path, 1)
    before = snapshot(tmp_path)

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_flush", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert checkpoint.newest_whole(tmp_path) == (tmp_path / "step-000001", [])
    assert {name: data for name, data in snapshot(tmp_path).items() if not name.startswith(".")} == before
    check_whole(save(tmp_path, 2), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write_atomically(file, "old ä\n")
    for full in (largest_file(100), largest_file(0)):
        with full, pytest.raises(CheckpointError, match=f"Cannot write '{file}'.*Free some space"):
            write_atomically(file, "new" * 1000)
        assert snapshot(tmp_path) == {"config.json": "old ä\n".encode()}
    write_atomically(file, "new\n")
    assert snapshot(tmp_path) == {"config.json": b"new\n"}
    with pytest.raises(CheckpointError, match="No such file"):
        write_atomically(tmp_path / "missing" / "x", "text")


def model_and_optimizer() -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": (8, 8), "b": (64, 128), "never used": (4,)}
    parameters = {name: torch.nn.Parameter(torch.randn(size, generator=generator)) for name, size in sizes.items()}
    return parameters, torch.optim.AdamW(parameters.values(), lr=0.01)


def take_steps(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for name in ("a", "b"):
            parameters[name].grad = torch.randn(parameters[name].shape, generator=generator)
        optimizer.step()


def test_an_optimizer_goes_on_as_if_it_had_not_been_broken_off(tmp_path: Path) -> None:
    unbroken, optimizer = model_and_optimizer()
    take_steps(unbroken, optimizer, range(3))
    state = optimizer_tensors(optimizer, unbroken)
    assert {key.split("//")[0] for key in state} == {"a", "b"}
    checkpoint.save(tmp_path, 3, write_adapter=lambda _: None, optimizer=state, state={}, keep=1)
    values = {key: value.detach().clone() for key, value in unbroken.items()}
    take_steps(unbroken, optimizer, range(3, 6))

    resumed, fresh = model_and_optimizer()
    with torch.no_grad():
        for key, value in values.items():
            resumed[key].copy_(value)
    restore_optimizer(fresh, resumed, tmp_path / "step-000003")
    take_steps(resumed, fresh, range(3, 6))
    for key in unbroken:
        assert torch.equal(unbroken[key], resumed[key])


def test_an_optimizer_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    parameters, optimizer = model_and_optimizer()
    take_steps(parameters, optimizer, range(1))
    state = optimizer_tensors(optimizer, parameters)
    folder = checkpoint.save(tmp_path, 1, write_adapter=lambda _: None, optimizer=state, state={}, keep=1)
    parameters["c"] = parameters.pop("a")
    with pytest.raises(CheckpointError, match="has 'a', which this model does not"):
        restore_optimizer(optimizer, parameters, folder)
