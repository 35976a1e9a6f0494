"""The meanings of RUN|MODEL."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from expo_lite.commands.eval import output_folder, settled
from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.run import checkpoint
from expo_lite.run.folder import RunFolder
from expo_lite.run.target import find_target, resolve_run
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.measuring import EvalConfig
from expo_lite.settings.models import PRESETS
from expo_lite.settings.train import TrainConfig, resolve


def write_adapter(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"r": 8, "lora_alpha": 4, "base_model_name_or_path": PRESETS["tiny"].source} | changes
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = TaskOptions(fields=("question=q",))
    config = TrainConfig(model="tiny", task="jsonl:sums.jsonl", levels=(5,), output=tmp_path / "run", data=data)
    folder = RunFolder(tmp_path / "run")
    folder.create(resolve(config), device="cpu")
    for step in (20, 40):
        checkpoint.save(folder.checkpoints, step, write_adapter=write_adapter, optimizer={}, state={}, keep=2)
    return folder.path


def test_a_run_is_its_newest_whole_checkpoint(run: Path) -> None:
    located = find_target(str(run))
    assert (located.model, located.run, located.label) == ("tiny", run, "run-step-000040")
    assert located.adapter == run / "checkpoints" / "step-000040"
    assert located.policy.lora_rank == TrainConfig().policy.lora_rank
    (run / "checkpoints" / "step-000040" / "adapter_model.safetensors").write_bytes(b"weightz")
    older = find_target(str(run))
    assert older.adapter == run / "checkpoints" / "step-000020"
    assert older.identity() == located.identity() | {"adapter_sha256": older.identity()["adapter_sha256"]}
    with pytest.raises(CheckpointError, match="damaged"):
        find_target(str(run / "checkpoints" / "step-000040"))


def test_settings_default_to_the_runs_own(run: Path) -> None:
    located = find_target(str(run))
    config = settled(EvalConfig(target=str(run)), located)
    assert (config.task, config.levels, config.data.fields) == ("jsonl:sums.jsonl", (5,), ("question=q",))
    assert config.max_completion_tokens == PRESETS["tiny"].max_completion_tokens
    assert output_folder(config, located) == run / "evaluation" / "step-000040-jsonl-sums-test-seed0"
    other = settled(EvalConfig(target=str(run), task="hidden-rules", max_completion_tokens=7), located)
    assert (other.task, other.levels, other.data, other.max_completion_tokens) == ("hidden-rules", (), TaskOptions(), 7)


def test_checkpoints_alone_are_adapters(run: Path, tmp_path: Path) -> None:
    """As copied from another machine without their run."""
    (tmp_path / "here").mkdir()
    alone = (run / "checkpoints").rename(tmp_path / "here" / "checkpoints") / "step-000020"
    found = find_target(str(alone))
    assert (found.model, found.run, found.config, found.label) == ("tiny", None, None, "step-000020")
    assert find_target(str(tmp_path / "here")).adapter == alone.parent / "step-000040"


def test_a_run_without_checkpoint(run: Path) -> None:
    for folder in checkpoint.checkpoints(run / "checkpoints"):
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        find_target(str(run))


def test_a_lone_adapter_names_its_model_and_shape(tmp_path: Path) -> None:
    write_adapter(tmp_path / "mine")
    located = find_target(str(tmp_path / "mine"))
    assert (located.model, located.run, located.label) == ("tiny", None, "mine")
    assert (located.policy.lora_rank, located.policy.lora_alpha) == (8, 4)
    config = settled(EvalConfig(target="mine"), located)
    assert (config.task, output_folder(config, located)) == (
        "hidden-rules",
        Path("runs/eval-mine-hidden-rules-test-seed0"),
    )


def test_a_lone_adapter_whose_model_is_elsewhere(tmp_path: Path) -> None:
    write_adapter(tmp_path / "mine", base_model_name_or_path="/gone/model")
    with pytest.raises(ConfigError, match="was made for"):
        find_target(str(tmp_path / "mine"))


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"r": None}])
def test_adapters_of_other_kinds(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_adapter(tmp_path / "mine", **changes)
    with pytest.raises(CheckpointError):
        find_target(str(tmp_path / "mine"))


def test_models_and_typing_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    about = {"model": "tiny", "bits": 4, "backend": "auto", "sampler": "auto", "adapter_sha256": None}
    assert find_target("tiny").identity() == about | {"revision": None, "thinking": None, "chat_template": None}
    assert find_target("owner/name", bits=16).policy.bits == 16
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        find_target("tyny")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match="no run, adapter or model at 'runs/typo'"):
        find_target("runs/typo")


def test_a_folder_of_runs_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("b-seed0", "a-seed0"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    message = f"is no run itself, but holds 2. Give one of them, such as '{tmp_path / 'a-seed0'}'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_target(str(tmp_path))
    with pytest.raises(ConfigError, match="is no run itself, but holds 2"):
        resolve_run(TrainConfig(model=str(tmp_path)))
