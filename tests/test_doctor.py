"""The doctor: each thing that is broken on purpose is named, and what is whole is called so."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from made_run import make_run, write_evaluation
from safetensors.torch import load_file, save_file

from expo_lite.commands import cli
from expo_lite.commands import doctor as checks
from expo_lite.commands.train import Train
from expo_lite.policy import device
from expo_lite.report.findings import lora_b_moved, run_findings
from expo_lite.results.record import read_run
from expo_lite.run.folder import RunFolder
from expo_lite.settings import machine

HEALTHY = {
    "grad_norm": 0.1,
    "update/n_rows": 16.0,
    "reward": 0.5,
    "frac_all_wrong": 0.25,
    "frac_all_correct": 0.25,
    "frac_reward_zero_std": 0.5,
    "completions/clipped_ratio": 0.1,
    "completions/max_length": 64.0,
    "expo/explanation_accept_rate": 0.75,
    "sampling/logp_difference/mean": 0.01,
}
DEAD = {"frac_reward_zero_std": 0.95, "frac_all_wrong": 0.9, "frac_all_correct": 0.05}
RIGHT = {"frac_reward_zero_std": 0.95, "frac_all_wrong": 0.05, "frac_all_correct": 0.9}


def write_metrics(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps({"step": step, **row}) + "\n" for step, row in enumerate(rows, 1))
    (run / "metrics.jsonl").write_text(text)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run without faults, 30 steps long: its evaluations are as good after as before."""
    run = make_run(tmp_path / "made")
    write_metrics(run, [HEALTHY] * 30)
    for step in (0, 6):
        write_evaluation(RunFolder(run).evaluation_file(step), (0, 0, 2, 1))
    return run


def save_adapter(run: Path, lora_b: list[float]) -> Path:
    checkpoint = run / "checkpoints" / "step-000030"
    checkpoint.mkdir()
    weights = {f"layers.{i}.lora_B.weight": torch.full((8, 2), value) for i, value in enumerate(lora_b)}
    save_file(weights | {"layers.0.lora_A.weight": torch.ones(2, 8)}, checkpoint / "adapter_model.safetensors")
    return checkpoint


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.run(["doctor", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


RULES: list[tuple[dict[str, float], str, str]] = [
    ({"grad_norm": 0.0, "update/n_rows": 0.0}, "Most steps teach nothing: ", "20 of 30 steps had no gradient"),
    (RIGHT, "Nearly every group is dead", "95% of groups; all wrong 5%, all right 90%"),
    ({"verdicts/timeout": 0.06}, "The grader runs out of time", "6.0% of verdicts"),
    ({"completions/clipped_ratio": 0.21}, "Many completions are cut off", "21%"),
    ({"expo/explanation_accept_rate": 0.09}, "Hardly any explanation is accepted", "9.0%"),
    ({"kl": 1.5}, "The policy is far from its base model", "KL 1.5 nats"),
    ({"sampling/logp_difference/mean": 0.2}, "What is sampled is not what is scored", "0.2 nats"),
]


@pytest.mark.parametrize(("harm", "what", "figures"), RULES)
def test_each_fault_is_named_with_its_figure_its_place_and_a_remedy(
    harm: dict[str, float], what: str, figures: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(made, [HEALTHY] * 10 + [HEALTHY | harm] * 20)
    code, out, err = doctor(capsys, str(made))
    said, remedy = out.splitlines()
    assert said.startswith(f"problem  {what}")
    assert f" (made, steps 11 to 30: {figures}" in said
    assert re.fullmatch(r" {9}\S.*\.", remedy)
    assert (code, err) == (1, "error: Problems found: 1. The lines above say what to do.\n")


def test_dead_groups_matter_where_rewards_are_compared(made: Path) -> None:
    write_metrics(made, [HEALTHY | DEAD] * 30)
    explained = read_run(made, "made")
    assert explained.settings["method"] == "exp-grpo"
    assert run_findings(explained) == []  # three of four groups that are all wrong have an explanation to learn from
    write_metrics(made, [HEALTHY | DEAD | {"expo/explanation_accept_rate": 0.0}] * 30)
    assert [f.what for f in run_findings(read_run(made, "made")) if "dead" in f.what]
    write_metrics(made, [{k: v for k, v in (HEALTHY | DEAD).items() if "accept" not in k}] * 30)
    record = read_run(made, "made")
    # not where wrong completions are learned from as well
    methods = (("grpo", 1), ("gt-sft-grpo", 1), ("sft", 0), ("exp-dpo", 0), ("star", 0), ("self-distill", 0))
    for method, n in methods:
        assert len(run_findings(dataclasses.replace(record, settings=record.settings | {"method": method}))) == n
    write_metrics(made, [HEALTHY | DEAD | {"expo/explanation_accept_rate": 0.0, "second/groups": 0.5}] * 30)
    assert not [f.what for f in run_findings(read_run(made, "made")) if "dead" in f.what]  # half are sampled again
    right = DEAD | {"frac_all_wrong": 0.0, "frac_all_correct": 0.95}
    write_metrics(made, [HEALTHY | right] * 30)
    (finding,) = run_findings(read_run(made, "made"))
    assert "harder problems" in finding.remedy
    write_metrics(made, [HEALTHY | right] * 4)  # so few steps are chance
    assert run_findings(read_run(made, "made")) == []


@pytest.mark.parametrize(("lora_b", "moved"), [([0.0, 0.0], 0), ([0.0, 1e-30], 1), ([0.5, -0.5], 2)])
def test_which_factors_have_moved(lora_b: list[float], moved: int, made: Path) -> None:
    assert lora_b_moved(save_adapter(made, lora_b)) == (moved, 2)
    assert lora_b_moved(made) is None


def test_the_levels_that_were_lost(made: Path) -> None:
    """Problems by turns of levels 1 and 2, 4 samples each: level 2 falls from 4 of 4 to 1 of 4, level 1 stays."""
    before, after = (2, 4) * 10, (2, 1) * 10
    write_evaluation(RunFolder(made).evaluation_file(0), before)
    write_evaluation(RunFolder(made).evaluation_file(6), after)
    record = read_run(made, "made")
    (finding,) = run_findings(record)
    assert finding.what == "Lost: level 2"
    assert finding.figures.startswith("pass@1 100% before, 25% after; -75 points, ")
    assert finding.where == "evaluations after steps 0 and 6"
    assert "--learning-rate" in finding.remedy
    (other,) = run_findings(dataclasses.replace(record, settings=record.settings | {"levels": [1]}))
    assert other.remedy.startswith("It was not trained on")


def test_a_run_without_steps_and_a_folder_without_a_run(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "metrics.jsonl").unlink()
    code, out, _ = doctor(capsys, str(made))
    assert (code, out.splitlines()[0]) == (0, "warning  made: no step is done yet.")
    code, out, err = doctor(capsys, str(tmp_path / "nothing"))
    assert (code, out) == (1, "")
    assert "There is no run in" in err


def test_a_run_that_learned_nothing_and_torch_stays_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained for real: all completions are cut off after 2 tokens."""
    words = "train --model tiny --steps 2 --group-size 2 --problems-per-step 2 --max-completion-tokens 2"
    words += f" --diagnostics-every 0 --eval-problems 0 --output {tmp_path / 'run'}"
    assert cli.run(words.split()) == 0
    capsys.readouterr()
    script = "import sys; from expo_lite.commands.cli import run; code = run(sys.argv[1:]); sys.stderr.write("
    script += 'f\'{code} {sorted({"torch", "transformers", "bitsandbytes", "numpy"} & set(sys.modules))}\')'
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "1 []"
    assert "problem  The adapter has never moved (run, in step-000002: all 28 LoRA B factors are 0)." in done.stdout
    assert "problem  Nothing is learned: completions are cut off before they have an answer (run, step" in done.stdout


def test_several_runs(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_run(made.parent / "other")
    write_metrics(other, [HEALTHY | {"kl": 1.5, "verdicts/timeout": 0.5}] * 3)
    code, out, err = doctor(capsys, str(made), str(other))
    assert code == 1
    states = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert states == ["ok", "problem", "problem", "warning"]  # three of six steps, and nobody goes on
    assert "made: nothing wrong is found. Step 30 of 6: reward 50%, all-wrong groups 25%" in out
    assert err == "error: Problems found: 2. The lines above say what to do.\n"


def test_a_damaged_checkpoint(tmp_path: Path, made: Path) -> None:
    checkpoint = save_adapter(made, [1.0])
    (finding,) = run_findings(read_run(made, "made"))
    assert finding.what == "A checkpoint is damaged"
    assert str(checkpoint) in finding.figures


def test_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the training self-test, which the next test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    code, out, err = doctor(capsys, "--skip-training")
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert f"torch {torch.__version__.split('+')[0]}" in out
    assert "No NVIDIA GPU" in out
    assert "reads 4-bit weights back" in out
    assert all(re.match(r"(ok     |warning|problem| {7})  \S", line) for line in out.splitlines())


def test_the_training_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    check = checks.train(limit_s=120)  # other tests may run beside it
    assert check.state == "ok"
    assert re.match(r"2 steps of training took \d+ s with the start: all 28 LoRA B factors have moved", check.what)
    short = checks.train(limit_s=0.05)
    assert (short.state, "did not end within" in short.what) == ("warning", True)
    again = re.search(
        r"slow, or busy with other programs\. Try `expo-lite (train .* --output (\S+) --debug)` by", short.remedy
    )
    assert again and isinstance(cli.parse(again[1].split()), Train)
    assert not Path(again[2]).parent.exists()  # so that nothing is in its way
    monkeypatch.setattr(checks, "TRAIN", "train --model tiny --task nothing")
    wrong = checks.train(limit_s=120)
    assert "ended with code 2: error: Unknown task 'nothing'" in wrong.what
    assert wrong.remedy.startswith("`expo-lite train --model tiny --task nothing --output ")


def test_a_short_run_whose_adapter_does_not_move_or_whose_sampler_is_apart(tmp_path: Path) -> None:
    """The run that the self-test's own words leave, harmed afterwards."""
    run = tmp_path / "run"
    assert cli.run([*checks.TRAIN.split(), "--output", str(run)]) == 0
    assert checks.judge(run, 1.0).state == "ok"
    text = (run / "metrics.jsonl").read_text()
    row = json.loads(text.splitlines()[0]) | {"sampling/logp_difference/mean": 0.2}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert "nats a token apart" in checks.judge(run, 1.0).what
    file = next((run / "checkpoints").glob("*/adapter_model.safetensors"))
    weights = load_file(file)
    save_file({name: w * 0 if "lora_B" in name else w for name, w in weights.items()}, file)
    assert checks.judge(run, 1.0).state == "problem"  # the checkpoint is not what was written


def test_a_gpu_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """As test_device.py has it: a driver too old for torch's CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(device, "driver_version", lambda: "535.183.01")
    *_, check, bits = checks.machine_checks(training=True)  # which is left out: it would say the same
    assert (check.state, check.what) == ("problem", "There is a GPU that cannot be used.")
    assert "the driver is 535.183.01" in check.remedy
    assert bits.state in ("ok", "warning")  # it is looked at on the CPU all the same


@pytest.mark.parametrize(("installed", "missed"), [(False, 1), (True, 0)])
def test_a_card_without_unsloth(installed: bool, missed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "is_installed", lambda package: installed)
    monkeypatch.setattr(checks, "gpu", lambda: checks.Check("ok", "cuda: a card"))
    found = [check for check in checks.machine_checks(training=False) if "fused kernels" in check.what]
    assert [(check.state, "`uv sync --extra unsloth`" in check.remedy) for check in found] == [
        ("warning", True)
    ] * missed
    monkeypatch.setattr(checks, "gpu", lambda: checks.Check("problem", "a card that torch cannot use"))
    assert not [check for check in checks.machine_checks(training=False) if "fused kernels" in check.what]


def test_four_bits_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nf4_error", lambda width, device: 0.3)
    check = checks.four_bits()
    assert (check.state, "--bits 16" in check.remedy) == ("problem", True)


def test_versions_are_held_against_the_package_s_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.state for check in checks.versions()] == ["ok"]
    real = metadata.version
    others = {"torch": "2.10.0", "trl": "0.9.0"}
    monkeypatch.setattr(checks, "version", lambda name: others.get(name) or real(name))
    found = {check.what.split()[0]: check for check in checks.versions() if check.state == "warning"}
    torch_range = next(r for r in metadata.requires("expo-lite") or () if r.startswith("torch")).removeprefix("torch")
    assert found["torch"].what == f"torch 2.10.0 is installed; tested is {torch_range}."
    assert "trl 0.9.0" in found["trl"].what

    def missing(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checks, "version", missing)
    (problem,) = [check for check in checks.versions() if check.state == "problem"]
    assert problem.what.startswith("peft is not installed; ")
