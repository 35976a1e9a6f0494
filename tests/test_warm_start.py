"""Training that goes on from an adapter: where it begins, what it is held against, how it is resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from expo_lite import TrainConfig, train
from expo_lite.commands import cli
from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.policy.batching import Row
from expo_lite.policy.factory import load_policy
from expo_lite.policy.scoring import score_rows
from expo_lite.run.target import find_target, resolve_run, starting_adapter
from expo_lite.settings.groups import HeldOutConfig, LossConfig, OptimizerConfig, PolicyConfig, RolloutConfig

pytestmark = pytest.mark.usefixtures("unchecked")

HELD_OUT = HeldOutConfig(eval_problems=2, eval_samples=2)
ROWS = [Row((1, 5, 9), (7, 8)), Row((4, 4), (30, 31, 32))]


def config(output: Path, **more: object) -> TrainConfig:
    settings = {"model": "tiny", "steps": 2, "group_size": 2, "problems_per_step": 2, "diagnostics_every": 0}
    settings |= {"evaluation": HELD_OUT, "sampling": RolloutConfig(max_completion_tokens=48)}
    fast = OptimizerConfig(learning_rate=0.02, warmup_steps=0)
    return TrainConfig(output=output, **settings | {"optimizer": fast} | more)  # type: ignore[arg-type]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two supervised steps, with a rank that is not the default."""
    folder = tmp_path_factory.mktemp("runs") / "taught"
    train(config(folder, method="sft", group_size=8, policy=PolicyConfig(lora_rank=4), save_every=1))
    return folder


def test_a_run_begins_where_another_ended(taught: Path, tmp_path: Path) -> None:
    first = train(config(tmp_path / "a"))
    went_on = train(config(tmp_path / "b", model=str(taught)))
    assert went_on.before is not None
    assert first.before is not None
    after = json.loads((taught / "evaluation" / "step-000002.json").read_text())
    assert json.loads((tmp_path / "b" / "evaluation" / "step-000000.json").read_text()) == after
    assert went_on.before != first.before
    assert load_file(tmp_path / "b" / "start" / "adapter_model.safetensors").keys() == weights(taught, 2).keys()
    settings = json.loads((tmp_path / "b" / "config.json").read_text())["settings"]
    assert (settings["model"], settings["start_from"]) == ("tiny", str(taught))
    assert settings["policy"]["lora_rank"] == 4
    moved = [
        not torch.equal(a, b)
        for a, b in zip(weights(taught, 2).values(), weights(tmp_path / "b", 2).values(), strict=True)
    ]
    assert any(moved)


def test_it_is_resumed_to_the_byte_without_its_source(taught: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(taught, source)
    train(config(tmp_path / "whole", model=str(source)))
    train(config(tmp_path / "parts", model=str(source), steps=1))
    shutil.rmtree(source)
    train(config(tmp_path / "parts", model=str(source), resume=True))
    whole, parts = weights(tmp_path / "whole", 2), weights(tmp_path / "parts", 2)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_resumed_run_takes_no_other_settings_of_the_policy(taught: Path, tmp_path: Path) -> None:
    train(config(tmp_path / "run", model=str(taught), steps=1))
    with pytest.raises(ConfigError, match=r"bits is 16, but the adapter in .* has 4"):
        train(config(tmp_path / "run", model=str(taught), resume=True, policy=PolicyConfig(bits=16)))


def test_a_source_that_has_gone_on_is_not_what_was_planned(taught: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(taught, source)
    planned = resolve_run(config(tmp_path / "run", model=str(source)))
    assert starting_adapter(planned) == source / "checkpoints" / "step-000002"
    shutil.rmtree(source / "checkpoints" / "step-000002")  # as if the newest one were another
    with pytest.raises(CheckpointError, match="has changed since"):
        starting_adapter(planned)


def test_the_reference_is_where_the_run_began(taught: Path, tmp_path: Path) -> None:
    """The first step's KL is 0, as its policy is its own reference; against the base model it would not be."""
    target = find_target(str(taught))
    policy = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)

    def scores() -> torch.Tensor:
        return torch.cat([s.detach() for s in score_rows(policy, ROWS, temperature=1.0, token_budget=64)])

    own = scores()
    with policy.reference():
        base = scores()
    assert (own - base).abs().max() > 0.01
    policy.keep_reference()
    with policy.reference():
        assert torch.equal(scores(), own)
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.add_(0.1)
    changed = scores()
    with policy.reference():
        assert torch.equal(scores(), own)
    assert torch.equal(scores(), changed)
    assert not torch.equal(changed, own)

    shutil.copytree(taught / "checkpoints" / "step-000002", tmp_path / "adapter")
    (tmp_path / "adapter" / "state.json").unlink()
    start = str(tmp_path / "adapter")  # a folder with an adapter is a start too
    run = train(config(tmp_path / "kl", model=start, method="grpo", steps=1, loss=LossConfig(kl_coef=0.04)))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_shape_that_is_not_the_adapters(taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--model", str(taught), "--lora-rank", "8", "--output", str(tmp_path / "run")]
    assert cli.run(words) == 2
    assert "lora_rank is 8, but the adapter in" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
