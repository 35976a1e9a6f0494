"""The plan is read and checked; its runs are shared, resumed and judged."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expo_lite.commands.cli import run
from expo_lite.errors import ConfigError
from expo_lite.memory.limits import fitted
from expo_lite.replication.claims import CLAIMS
from expo_lite.replication.plan import DEFAULT_PLAN, read_plan
from expo_lite.replication.run import BASE, prepare_runs
from expo_lite.run.folder import RunFolder, read_config
from expo_lite.settings.replicate import ReplicateConfig

NAMES = ["grpo-hard", "exp-grpo-hard", "grpo-all", "gt-sft-grpo-all", "exp-grpo-all", "exp-grpo-all-0.5"]
NAMES += ["dpo-offline", "dpo-offline-expert", "dpo-online", "dpo-online-expert"]

SMALL = """
seeds = [0]
diagnose_problems = 2
[common]
steps = 2
group_size = 2
problems_per_step = 2
diagnostics_every = 0
[common.evaluation]
eval_problems = 2
eval_samples = 4
k = [4]
[runs.grpo-hard]
method = "grpo"
[runs.exp-grpo-hard]
method = "exp-grpo"
"""


@pytest.mark.parametrize("quick", [False, True])
def test_the_plan_that_is_shipped(quick: bool) -> None:
    plan = read_plan(ReplicateConfig(model="tiny", quick=quick))
    assert list(plan.runs) == NAMES
    assert plan.seeds == ((0,) if quick else (0, 1, 2))
    configs = {name: plan.config(name, 1) for name in plan.runs}
    assert len({config.steps for config in configs.values()}) == 1
    # one rate a family, the default
    assert len({config.optimizer.learning_rate for name, config in configs.items() if not name.startswith("dpo")}) == 1
    assert len({config.optimizer.learning_rate for name, config in configs.items() if name.startswith("dpo")}) == 1
    assert {name: config.levels for name, config in configs.items() if name.endswith("hard")} == dict.fromkeys(
        NAMES[:2], (5,)
    )
    assert configs["exp-grpo-all-0.5"].explanation.exp_sft_coef == 0.5
    # two runs of a pair differ in nothing else
    offline, expert = configs["dpo-offline"], configs["dpo-offline-expert"]
    assert replace(expert, output=offline.output, dpo=replace(expert.dpo, chosen="explanation")) == offline
    online = configs["dpo-online"]
    assert replace(offline, output=online.output, dpo=replace(offline.dpo, pairs="online")) == online
    assert configs["grpo-hard"].output.name == "grpo-hard-seed1"


def test_the_same_plan_for_a_large_model() -> None:
    plan = read_plan(ReplicateConfig(model="qwen2.5-3b", task="math"))
    config = plan.config("exp-grpo-all", 0)
    assert (config.model, config.task, config.steps) == ("qwen2.5-3b", "math", 300)
    assert config.output.parts[:2] == ("runs", "replicate-qwen2.5-3b-math")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seedz = [0]", "unknown key 'seedz'. Did you mean 'seeds'?"),
        ("[quick]\nstep = 3", "unknown key 'step'."),
        ("seeds = []\n[runs.a]", "a plan has seeds, none below 0, and at least one run"),
        ("seeds = [-1]\n[runs.a]", "a plan has seeds, none below 0"),
        ("seeds = [0]", "at least one run under [runs.NAME]"),
        ("seeds = [0]\nruns = 3", "'runs' must be a table"),
        ("seeds = [0]\n[runs.a]\nmethod = 'ppo'", "runs.a: method must be one of"),
        ("seeds = [0]\n[runs.a]\nseed = 3", "runs.a: 'seed' is not the plan's"),
        ("seeds = [0]\n[runs.a]\ngroup_size = 1", "group_size must be at least 2"),
        ("seeds = [0]\n[runs.a]\n[runs.b.evaluation]\neval_problems = 3", "all runs must be evaluated alike"),
    ],
)
def test_a_wrong_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plan(ReplicateConfig(model="tiny", plan=tmp_path / "plan.toml"))
    assert message in str(caught.value)


def test_the_loop_goes_on_with_the_folders_that_are_prepared(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(SMALL)
    plan = read_plan(ReplicateConfig(model="tiny", plan=tmp_path / "plan.toml", output=tmp_path / "out"))
    plan.folder.mkdir()
    (plan.folder / BASE).write_text("{}")
    for _ in range(2):  # the second time they are there
        prepare_runs(plan, 1)
        for name in plan.runs:
            config = plan.config(name, 0)
            folder = RunFolder(config.output)
            folder.check(fitted(config, read_config(folder.path))[0])
            assert folder.cut_back() == (None, [])
            assert folder.evaluation_file(0).read_text() == "{}"


def modified(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def test_finished_runs_stay_and_broken_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.toml").write_text(SMALL)
    folder = tmp_path / "out"
    words = ["replicate", "--model", "tiny", "--plan", str(tmp_path / "plan.toml"), "--output", str(folder)]
    assert run([*words, "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    results: dict[str, Any] = json.loads((folder / "replication.json").read_text())
    measured = {row["number"]: row["holds"] for row in results["claims"] if row["holds"] is not None}
    assert set(measured) <= {1, 5, 6, 9}
    assert {1, 9} <= set(measured)
    assert measured[1] is False  # two steps teach nothing
    assert "not measured" in out
    assert all(claim.statement in (folder / "replication.md").read_text() for claim in CLAIMS)
    base = (folder / "base-evaluation.json").read_bytes()
    for name in NAMES[:2]:
        assert (folder / "runs" / f"{name}-seed0" / "evaluation" / "step-000000.json").read_bytes() == base

    assert run(words) == 1  # nothing is overwritten
    before = modified(folder)
    broken = folder / "runs" / "grpo-hard-seed0"
    (broken / "evaluation" / "step-000002.json").unlink()
    adapter = (broken / "checkpoints" / "step-000002" / "adapter_model.safetensors").read_bytes()
    assert run([*words, "--resume", "--jobs", "1"]) == 0
    after = modified(folder)
    changed = {name for name in before if before[name] != after[name]}
    # the broken run was evaluated anew from its checkpoint; nothing else was touched
    assert changed == {"replication.json", "runs/grpo-hard-seed0/evaluation/step-000002.json"}
    assert (broken / "checkpoints" / "step-000002" / "adapter_model.safetensors").read_bytes() == adapter
    assert json.loads((folder / "replication.json").read_text()) == results

    (tmp_path / "plan.toml").write_text(SMALL.replace("group_size = 2", "group_size = 3"))
    capsys.readouterr()
    assert run([*words, "--resume"]) == 2
    assert "has other settings than the plan" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert run(["replicate", "--model", "tiny", "--quick", "--output", str(tmp_path / "quick")]) == 0
    took_s = time.monotonic() - started
    results = json.loads((tmp_path / "quick" / "replication.json").read_text())
    holds = {row["number"]: row["holds"] for row in results["claims"]}
    assert None not in holds.values()
    assert holds[1] and holds[9], holds  # what the method is for
    if (os.cpu_count() or 1) >= 2 and os.getloadavg()[0] < 4:
        assert took_s < 600


def test_the_plan_is_in_the_repository() -> None:
    assert DEFAULT_PLAN.is_file()
