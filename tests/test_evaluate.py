"""The eval command: its files, exact resuming, and the file of unsolved problems."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_policy import GRADER, ScriptedPolicy, install, write_problems

from expo_lite.commands.eval import Eval
from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.measure.evaluate import evaluate, held_out
from expo_lite.measure.samples import SampleFolder, SampleSpec, graded_problems
from expo_lite.memory.limits import Limits
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.load import load_tokenizer
from expo_lite.records import Prompts, SamplingParams
from expo_lite.results.figures import Evaluation
from expo_lite.settings.groups import HeldOutConfig, PolicyConfig, TaskOptions
from expo_lite.settings.measuring import EvalConfig
from expo_lite.settings.schema import from_mapping
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.tasks import load_task


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedPolicy]:
    return install(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    task = f"jsonl:{write_problems(tmp_path / 'sums.jsonl', 80)}"
    return {"task": task, "split": "train", "samples": 4, "sampling_rows": 40, "output": tmp_path / "out"}


def measure(config: dict[str, Any], **changes: Any) -> None:
    Eval(settings=EvalConfig(**{"target": "tiny"} | config | changes)).run()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "samples.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def test_it_writes_every_sample_and_the_figures(
    policy: type[ScriptedPolicy], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    measure(config)
    rows, folder = rows_of(config["output"]), config["output"]
    n = len({row["problem_id"] for row in rows})
    assert n > 60
    assert len(rows) == n * (1 + 4)
    results = json.loads((folder / "evaluation.json").read_text())
    evaluation = from_mapping(Evaluation, results["evaluation"])
    assert [result.level for result in evaluation.levels] == ["1", "2", "3", "all"]
    assert [result.level for result in evaluation.subjects] == ["even", "odd"]
    overall = evaluation.levels[-1]
    sampled = [row for row in rows if row["kind"] == "sample"]
    assert overall.avg.value == pytest.approx(sum(row["correct"] for row in sampled) / len(sampled))
    assert sorted(overall.pass_at) == sorted(overall.maj_at) == [1, 4]
    assert overall.reasons == {r: sum(row["reason"] == r for row in sampled) for r in overall.reasons}
    printed = capsys.readouterr().out
    assert "pass@4" in printed
    assert "maj@4" in printed
    assert "truncated" in printed


@pytest.mark.parametrize("die_at", [1, 5])
def test_resumed_equals_unbroken(
    policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path, die_at: int
) -> None:
    measure(config)
    whole, broken = config["output"], tmp_path / "broken"
    settings = config | {"output": broken}
    policy.n_calls, policy.die_at = 0, die_at
    with pytest.raises(KeyboardInterrupt):
        measure(settings)
    n_rows = len(rows_of(broken))
    assert 0 < n_rows < len(rows_of(whole))
    with (broken / "samples.jsonl").open("ab") as file:  # and a problem that was cut off in writing
        following = (whole / "samples.jsonl").read_bytes().split(b"\n")[n_rows : n_rows + 2]
        file.write(following[0] + b"\n" + following[1][:20])
    policy.n_calls, policy.die_at = 0, None
    measure(settings, resume=True)
    assert policy.n_calls < 10
    assert (broken / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    ours, theirs = (json.loads((folder / "evaluation.json").read_text()) for folder in (broken, whole))
    assert ours["evaluation"] == theirs["evaluation"]


def test_a_finished_one_is_only_read_again(policy: type[ScriptedPolicy], config: dict[str, Any]) -> None:
    measure(config)
    before = (config["output"] / "samples.jsonl").read_bytes()
    policy.loaded.clear()
    measure(config, resume=True)
    assert policy.loaded == []
    assert (config["output"] / "samples.jsonl").read_bytes() == before


def test_nothing_is_overwritten_or_mixed(policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path) -> None:
    measure(config)
    with pytest.raises(CheckpointError, match="--resume"):
        measure(config)
    with pytest.raises(ConfigError, match=r"temperature \(0.7 there, 0.9 given\)"):
        measure(config, resume=True, temperature=0.9)
    with pytest.raises(ConfigError, match="rounding"):
        measure(config, resume=True, data=TaskOptions(rounding="gold"))
    with pytest.raises(ConfigError, match="model"):
        measure(config, target="smollm2-135m", resume=True)
    write_problems(tmp_path / "sums.jsonl", 81)
    with pytest.raises(ConfigError, match="problems"):
        measure(config, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no run or evaluation in"):
        measure(config | {"output": tmp_path / "other"}, resume=True)


def test_a_file_with_foreign_rows_is_refused(policy: type[ScriptedPolicy], config: dict[str, Any]) -> None:
    measure(config)
    file = config["output"] / "samples.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b'"sample": 0', b'"sample": 5')
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(CheckpointError, match="line 4"):
        measure(config, resume=True)


def test_a_model_that_cannot_be_loaded_leaves_no_folder(
    policy: type[ScriptedPolicy], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "__init__", lambda *_args, **_kwargs: (_ for _ in ()).throw(ConfigError("no")))
    with pytest.raises(ConfigError):
        measure(config)
    assert not config["output"].exists()


def test_baseline_on_the_same_problems_and_seeds(
    policy: type[ScriptedPolicy], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    measure(config)
    measure(config, resume=True, baseline="smollm2-135m")  # samples the baseline alone
    assert policy.loaded == ["tiny", "smollm2-135m"]
    ours, theirs = rows_of(config["output"]), rows_of(config["output"] / "baseline")
    assert [(r["kind"], r["problem_id"], r["sample"]) for r in ours] == [
        (r["kind"], r["problem_id"], r["sample"]) for r in theirs
    ]
    results = json.loads((config["output"] / "evaluation.json").read_text())
    overall = next(difference for difference in results["differences"] if difference["level"] == "all")
    rates = [[r["correct"] for r in rows if r["kind"] == "sample"] for rows in (ours, theirs)]
    by_hand = sum(rates[0]) / len(rates[0]) - sum(rates[1]) / len(rates[1])
    assert overall["difference"]["1"]["value"] == pytest.approx(by_hand)
    assert 0 < overall["difference"]["1"]["low"] < by_hand < overall["difference"]["1"]["high"]
    assert "tiny minus smollm2-135m" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"temperature": 0.0}])
def test_settings_out_of_range(policy: type[ScriptedPolicy], config: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        measure(config | wrong)
    assert policy.loaded == []


def test_the_loop_and_the_command_give_the_same_figures(policy: type[ScriptedPolicy], config: dict[str, Any]) -> None:
    measure(config)
    task = load_task(config["task"], grader=GRADER)
    result = evaluate(
        policy("tiny", PolicyConfig(), seed=0),  # type: ignore[arg-type]
        task,
        task.problems("train"),
        HeldOutConfig(eval_samples=4),
        max_completion_tokens=100,
        rows=1000,
        seed=0,
    )
    written = json.loads((config["output"] / "evaluation.json").read_text())["evaluation"]
    assert from_mapping(Evaluation, written) == result


def test_the_samples_of_a_problem_do_not_depend_on_its_company(tmp_path: Path) -> None:
    """On the tiny model: one problem at a time and all together give the same samples, more samples the same first."""
    policy = HfPolicy("tiny", PolicyConfig(), seed=0)
    task = load_task("hidden-rules", grader=GRADER)
    problems = tuple(task.problems("test", limit=2))

    def texts(order: tuple[Any, ...], n: int, rows: int) -> dict[tuple[str, str, int], str]:
        spec = SampleSpec(order, n, SamplingParams(0.7, 32, rows=rows), seed=3)
        folder = SampleFolder(tmp_path / str(len(list(tmp_path.iterdir()))), spec.settings())
        graded_problems(spec, task, lambda: policy, limits=Limits(1_024, rows), folder=folder)
        found = folder.samples.read()
        return {(row["kind"], row["problem_id"], row["sample"]): row["completion"] for row in found}

    together = texts(problems, 4, 256)
    assert texts(problems[::-1], 4, 4) == together
    assert len(set(together.values())) > len(problems)
    more = texts(problems, 6, 256)
    assert {key: text for key, text in together.items() if key in more}.items() <= more.items()


def test_the_unsolved_problems_are_a_task(
    policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config |= {"write_unsolved": tmp_path / "files" / "unsolved.jsonl"}
    measure(config)
    out = capsys.readouterr().out.replace("\n", "")
    solved = {row["problem_id"] for row in rows_of(config["output"]) if row["correct"]}
    original = {p.problem_id: p for p in load_task(config["task"], grader=GRADER).problems("train")}
    subset = load_task(f"jsonl:{config['write_unsolved']}", grader=GRADER)
    read = [*subset.problems("train"), *subset.problems("test")]
    assert {p.problem_id: p for p in read} == {name: p for name, p in original.items() if name not in solved}
    # the scripted policy never gets a sum above 90
    assert {p.problem_id for p in original.values() if int(p.answer) > 90} <= {p.problem_id for p in read}
    assert f"{len(read)} of {len(original)} problems" in out
    assert f"expo-lite train --model tiny --task jsonl:{config['write_unsolved']}" in out


def test_a_file_is_not_overwritten_and_a_broken_evaluation_goes_on(
    policy: type[ScriptedPolicy], config: dict[str, Any], tmp_path: Path
) -> None:
    config |= {"write_unsolved": tmp_path / "unsolved.jsonl"}
    policy.n_calls, policy.die_at = 0, 3
    with pytest.raises(KeyboardInterrupt):
        measure(config)
    assert not config["write_unsolved"].exists()  # only when all is sampled
    policy.die_at = None
    measure(config, resume=True)
    assert config["write_unsolved"].exists()
    policy.loaded.clear()
    with pytest.raises(CheckpointError, match="--write-unsolved"):
        measure(config | {"output": config["output"].with_name("other")})
    assert not policy.loaded


def test_the_prompt_of_explanations_does_not_choose_what_is_held_out(tmp_path: Path) -> None:
    """Runs of a sweep may differ in it, and are compared problem by problem."""
    config = resolve(TrainConfig(model="tiny", output=tmp_path))
    policy: Any = SimpleNamespace(tokenizer=load_tokenizer("tiny", PolicyConfig()))
    longest = Prompts(explanation="{question} {answer}" + " Explain." * 500)
    usual, other = (held_out(load_task(config.task), config, policy, prompts) for prompts in (Prompts(), longest))
    assert len(usual) == 200 and usual == other
