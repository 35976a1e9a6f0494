"""A model of the hub: its commit is kept to, and its cache is used where the hub does not answer."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import REPOSITORY, FakeHub, fake_hub

from expo_lite import TrainConfig, train
from expo_lite.commands import cli
from expo_lite.errors import ConfigError, DataError, ModelError
from expo_lite.memory.limits import fitted
from expo_lite.memory.shapes import Shape, cached_commit, context_of, find_shape
from expo_lite.policy.load import load_tokenizer
from expo_lite.run.target import find_target
from expo_lite.settings.groups import HeldOutConfig, PolicyConfig, RolloutConfig
from expo_lite.settings.models import PRESETS
from expo_lite.settings.train import resolve
from expo_lite.tasks.files import hub_rows

PINNED = "a" * 40


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with `tiny`, which the cache has."""
    with fake_hub(Path(PRESETS["tiny"].source), tmp_path_factory.mktemp("cache")) as hub:
        load_tokenizer(REPOSITORY, PolicyConfig())
        yield hub


@pytest.fixture
def hub(served: FakeHub) -> Iterator[FakeHub]:
    served.asked.clear()
    yield served
    served.status, served.commit = 200, PINNED


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 504])
def test_a_cached_model_is_used_where_the_hub_refuses(hub: FakeHub, status: int) -> None:
    hub.status = status
    with pytest.warns(UserWarning, match=f"'{REPOSITORY}' is taken from the cache: .*{status}"):
        load_tokenizer(REPOSITORY, PolicyConfig())
    assert len(hub.asked) == 1  # nothing is tried again
    with pytest.raises(ModelError, match=f"'someone/else': .*{status}"):
        load_tokenizer("someone/else", PolicyConfig())


def test_a_revision(hub: FakeHub) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(REPOSITORY, PolicyConfig(revision="v1"))
    assert any(path.endswith("/revision/v1") for path in hub.asked)
    with pytest.raises(ModelError, match=f"'{REPOSITORY}' has no revision 'v2'"):
        load_tokenizer(REPOSITORY, PolicyConfig(revision="v2"))
    assert cached_commit(REPOSITORY, None) == cached_commit(REPOSITORY, "v1") == PINNED
    assert cached_commit("tiny", None) is None


def test_a_run_is_planned_by_the_revision_that_it_asks_for(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    load_tokenizer(REPOSITORY, PolicyConfig(revision="v1"))
    asked = []

    def watched(name: str, revision: str | None = None) -> Shape:
        asked.append(revision)
        return find_shape(name, revision)

    monkeypatch.setattr("expo_lite.memory.limits.find_shape", watched)
    monkeypatch.setattr("expo_lite.memory.shapes.find_shape", watched)
    assert fitted(resolve(TrainConfig(model=REPOSITORY, policy=PolicyConfig(revision="v1"))))[1] is not None
    with pytest.raises(ConfigError, match="leaves no room"):
        context_of(REPOSITORY, 1024, "v1")
    assert asked == ["v1", "v1"]


def test_a_run_keeps_to_the_commit_that_it_began_with(
    hub: FakeHub, tmp_path: Path, unchecked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"problems_per_step": 2, "method": "sft", "output": tmp_path / "run"}
    few |= {"evaluation": HeldOutConfig(eval_problems=0), "sampling": RolloutConfig(max_completion_tokens=48)}
    train(TrainConfig(model=REPOSITORY, steps=1, **few))
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["policy"]["revision"] == PINNED
    target = find_target(str(tmp_path / "run"))
    assert target.policy.revision == PINNED
    assert target.adapter is not None
    assert json.loads((target.adapter / "adapter_config.json").read_text())["revision"] == PINNED
    hub.commit = "b" * 40  # the hub has a newer one now
    hub.asked.clear()
    train(TrainConfig(model=REPOSITORY, steps=2, resume=True, **few))
    assert hub.asked == [f"/api/models/{REPOSITORY}/revision/{PINNED}"]
    capsys.readouterr()
    assert cli.run(["plan", "--model", REPOSITORY, "--vram", "24"]) == 0
    assert f"{REPOSITORY} at commit {PINNED}" in capsys.readouterr().out
    assert cli.run(["export", str(tmp_path / "run"), "--to", "adapter", "--output", str(tmp_path / "adapter")]) == 0
    assert f"at commit {PINNED}" in (tmp_path / "adapter" / "README.md").read_text()
    assert find_target(str(tmp_path / "adapter")).policy.revision == PINNED


def test_an_evaluation_is_of_one_commit(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hub moves on between an evaluation and its resumption: it is not continued with another model."""
    words = ["eval", REPOSITORY, *"--problems 1 --levels 1 --samples 1 --max-completion-tokens 8 --output".split()]
    words.append(str(tmp_path / "eval"))
    assert cli.run(words) == 0
    assert json.loads((tmp_path / "eval" / "config.json").read_text())["settings"]["revision"] == PINNED
    hub.commit = "b" * 40
    assert cli.run([*words, "--resume"]) == 2
    assert f"revision ({PINNED} there, {'b' * 40} given)" in capsys.readouterr().err


def test_a_data_set_that_cannot_be_had_fails_at_once(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` by itself tries again for 24 s; a timeout of the test holds the time."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    hub.status = 503
    with pytest.raises(DataError, match=r"'someone/data' of the hub: .*503.* Fetch it\."):
        hub_rows("someone/data", ("",), instead="Fetch it.")
    assert len(hub.asked) == 1
