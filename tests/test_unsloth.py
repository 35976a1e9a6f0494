"""Unsloth on its CPU backend against transformers: one run, one adapter, one reference; and each of its traps.

Then its GPU code, interpreted on CPU tensors, against transformers."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from shaken import shaken
from unsloth_process import PROMPTS, ROWS

from expo_lite.commands.cli import run
from expo_lite.errors import ConfigError, ModelError
from expo_lite.policy.batching import micro_batches
from expo_lite.policy.factory import load_policy
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.scoring import score_rows
from expo_lite.records import SampleRequest, SamplingParams
from expo_lite.settings import machine
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.machine import check_backend, is_installed
from expo_lite.settings.models import PRESETS

HERE = Path(__file__).parent
installed = pytest.mark.skipif(not is_installed("unsloth"), reason="unsloth is not installed (extra 'unsloth')")


def in_own_process(*words: str, **environment: str) -> str:
    with tempfile.TemporaryDirectory() as folder:  # Unsloth leaves a cache where it runs
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            cwd=folder,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def hf() -> HfPolicy:
    policy = HfPolicy("tiny", PolicyConfig(), seed=0)
    shaken(policy, 0.03)
    return policy


@pytest.fixture(scope="module")
def folders(hf: HfPolicy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("unsloth")
    theirs, ours, hostile = root / "hf", root / "unsloth", root / "hostile"
    theirs.mkdir()
    hf.save_adapter(theirs)
    shutil.copytree(PRESETS["tiny"].source, hostile)
    settings = json.loads((hostile / "generation_config.json").read_text())
    settings |= {"do_sample": True, "top_k": 1, "top_p": 0.1, "repetition_penalty": 5.0, "temperature": 0.1}
    (hostile / "generation_config.json").write_text(json.dumps(settings))
    return theirs, ours, hostile


@pytest.fixture(scope="module")
def found(folders: tuple[Path, Path, Path]) -> dict[str, Any]:
    out = in_own_process(str(HERE / "unsloth_process.py"), *map(str, folders), PYTHONPATH=str(HERE))
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def scores(policy: HfPolicy) -> torch.Tensor:
    return torch.cat(score_rows(policy, ROWS, temperature=1.0, token_budget=64))


def flat(lists: list[list[float]]) -> torch.Tensor:
    return torch.tensor([value for values in lists for value in values])


@installed
def test_what_unsloth_patches_modes_and_limits(found: dict[str, Any]) -> None:
    assert found["kind"] == "UnslothPolicy"
    assert len(set(found["padding_side"])) == 1
    assert all("Unsloth would cut it short" in message for message in found["too_long"])
    # modes are switched once a step, and checkpointing stays on
    assert [call.split()[0] for call in found["switches"]] == ["for_inference", "for_training"] * 3
    assert {call for call in found["switches"] if call.startswith("for_training")} == {"for_training unsloth True"}


@installed
def test_adapters_of_transformers_give_the_same_log_probabilities(found: dict[str, Any], hf: HfPolicy) -> None:
    fresh = [p.detach().double().sum().item() for p in HfPolicy("tiny", PolicyConfig(), seed=0).parameters().values()]
    assert found["fresh"] == pytest.approx(fresh)
    torch.testing.assert_close(flat(found["logprobs"]), scores(hf), rtol=0, atol=1e-4)
    with hf.reference():
        reference = scores(hf)
    torch.testing.assert_close(flat(found["reference"]), reference, rtol=0, atol=1e-4)
    assert (reference - scores(hf)).abs().max() > 0.1


@installed
def test_an_adapter_of_unsloth_loads_in_transformers(
    found: dict[str, Any], folders: tuple[Path, Path, Path], hf: HfPolicy
) -> None:
    own = HfPolicy("tiny", PolicyConfig(), seed=1, adapter=folders[1])
    torch.testing.assert_close(scores(own), flat(found["logprobs"]), rtol=0, atol=1e-4)
    ours, theirs = (json.loads((folders[i] / "adapter_config.json").read_text()) for i in (1, 0))
    for key in ("r", "lora_alpha", "base_model_name_or_path", "peft_type", "bias", "lora_dropout"):
        assert ours[key] == theirs[key]


@installed
def test_both_samplers_sample_from_what_is_scored(found: dict[str, Any], hf: HfPolicy) -> None:
    assert found["difference"] < 1e-4
    assert found["native_difference"] < 1e-4
    sampled = hf.sample([SampleRequest(p, 2) for p in PROMPTS], SamplingParams(0.0, 16), seed=5)
    greedy = [list(c.token_ids) for row in sampled for c in row]
    assert found["greedy"] == greedy
    assert found["native_greedy"] == greedy


@installed
def test_the_models_own_generation_settings_have_no_say(found: dict[str, Any]) -> None:
    assert found["native"] == found["native_hostile"]
    assert len({tuple(ids) for ids in found["native"]}) == len(found["native"])  # a top_k of 1 would repeat itself


@installed
def test_the_same_run_gives_the_same_losses(tmp_path: Path) -> None:
    words = [
        "train",
        "--model",
        "tiny",
        "--steps",
        "3",
        "--group-size",
        "4",
        "--problems-per-step",
        "4",
        "--levels",
        "4",
    ]
    words += ["--exp-sft-coef", "1", "--warmup-steps", "0", "--learning-rate", "4e-3", "--eval-problems", "0"]
    words += ["--kl-coef", "0.01", "--output"]
    assert run([*words, str(tmp_path / "hf"), "--backend", "hf"]) == 0
    in_own_process("-m", "expo_lite", *words, str(tmp_path / "unsloth"), "--backend", "unsloth")
    rows = {}
    for name in ("hf", "unsloth"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows[name] = [json.loads(line) for line in lines]
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in rows]
    assert samples[0] == samples[1]
    assert all(abs(row["loss"]) > 0.01 for row in rows["hf"])  # there is something to compare
    assert rows["hf"][2]["kl"] > 3e-4  # the policy has moved, by more than the tolerance below
    for theirs, ours in zip(rows["hf"], rows["unsloth"], strict=True):
        for key in ("loss", "grad_norm", "kl", "expo/sft_loss"):
            assert ours.get(key) == pytest.approx(theirs.get(key), abs=1e-4)


CONTRACT = """
import inspect, json, os, torch
from expo_lite.settings.groups import PolicyConfig
from expo_lite.policy import unsloth as ours
assert ours.FastLanguageModel.__module__ == "unsloth.models.loader", "this is not the GPU code"
assert os.environ["UNSLOTH_DISABLE_STATISTICS"] == "1"
from peft import LoraConfig
cuda, model, lora = torch.device("cuda"), object(), LoraConfig(target_modules=["q_proj"])
torch.cuda.get_device_capability = lambda device: (8, 9)
fast = ours.FastLanguageModel
calls = [(fast.from_pretrained, (), ours.load_arguments("folder", PolicyConfig(bits=bits), cuda, 4096))
         for bits in (4, 16)]
calls += [(fast.get_peft_model, (model,), ours.lora_arguments(lora, 0)),
          (fast.for_training, (model,), {"use_gradient_checkpointing": "unsloth"}),
          (fast.for_inference, (model,), {})]
unnamed = []
for function, given, keywords in calls:
    signature = inspect.signature(function)
    signature.bind(*given, **keywords)
    unnamed += [key for key in keywords if key not in signature.parameters]
print(json.dumps(sorted(set(unnamed))))
"""


@installed
def test_every_argument_is_one_of_the_installed_gpu_code(tmp_path: Path) -> None:
    out = in_own_process("-c", CONTRACT, UNSLOTH_ALLOW_CPU="1")
    # transformers' own, which Unsloth takes as **kwargs and hands on; another name here would be one it has dropped
    assert json.loads(out.splitlines()[-1]) == ["local_files_only"]


@pytest.fixture(scope="module")
def exact(hf: HfPolicy, folders: tuple[Path, Path, Path]) -> HfPolicy:
    """The same adapter on the base in 16 bits, as the interpreted one has it."""
    return HfPolicy("tiny", PolicyConfig(bits=16), seed=0, adapter=folders[0])


def interpreted(folder: Path, kind: str) -> dict[str, Any]:
    """Unsloth's GPU code, its Triton kernels interpreted; 1 minute."""
    out = in_own_process(
        str(HERE / "unsloth_interpreted.py"),
        str(folder),
        kind,
        PYTHONPATH=str(HERE),
        TRITON_INTERPRET="1",
        UNSLOTH_ALLOW_CPU="1",
        UNSLOTH_COMPILE_DISABLE="1",
    )
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


@installed
@pytest.mark.parametrize(
    ("kind", "nats", "of_a_norm", "kernels"),
    [
        ("fp32", 1e-5, 1e-4, {"_rms_layernorm_forward", "_rms_layernorm_backward", "_rope_embedding_QK"}),
        ("fp16", 0.01, 0.03, {"_fg_kernel", "_DWf_DW_dfg_kernel", "_rms_layernorm_forward", "_rope_embedding_QK"}),
    ],
)
def test_the_gpu_code_scores_learns_and_samples_alike(
    folders: tuple[Path, Path, Path], exact: HfPolicy, kind: str, nats: float, of_a_norm: float, kernels: set[str]
) -> None:
    """In fp32 to rounding, with checkpointing; in fp16, where Unsloth's fused LoRA layers run, to that of 16 bits."""
    found = interpreted(folders[0], kind)
    assert kernels <= found["kernels"].keys()
    apart = [(flat(found["logprobs"]) - scores(exact)).abs()]
    with exact.reference():
        apart.append((flat(found["reference"]) - scores(exact)).abs())
    assert all(nats_N.mean() < nats and nats_N.max() < 10 * nats for nats_N in apart)
    assert (flat(found["logprobs"]) - flat(found["reference"])).abs().max() > 0.1
    for parameter in exact.parameters().values():
        parameter.grad = None
    learned = [dataclasses.replace(row, advantage=1.0, weight=0.1) for row in ROWS]
    for batch in micro_batches(learned, token_budget=64, pad_id=exact.pad_id, packed=exact.packs):
        (exact.logprobs(batch, temperature=1.0) * batch.weights_N).sum().backward()  # type: ignore[no-untyped-call]
    norms = {name: float(p.grad.norm()) for name, p in exact.parameters().items() if p.grad is not None}
    assert len(norms) == len(found["gradients"]) == 56
    largest = max(norms.values())
    assert list(found["gradients"].values()) == pytest.approx(
        list(norms.values()), rel=of_a_norm, abs=of_a_norm * largest
    )
    requests = [SampleRequest(row.prompt_ids, 2) for row in ROWS]
    ours = exact.sample(requests, SamplingParams(0.0, 6), seed=0)
    same = [a == list(c.token_ids) for a, c in zip(found["greedy"], (c for row in ours for c in row), strict=True)]
    assert all(same) if kind == "fp32" else any(same)  # rounding to 16 bits breaks ties: these prompts are no sense
    assert found["difference"] < nats


def test_a_backend_that_is_not_installed_is_found_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expo_lite.settings.machine.is_installed", lambda package: False)
    check_backend("hf")
    with pytest.raises(ConfigError, match="uv sync --extra unsloth"):
        check_backend("unsloth")


def test_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expo_lite.settings.machine.is_installed", lambda package: True)
    assert "transformers" in sys.modules
    assert "unsloth" not in sys.modules
    with pytest.raises(ModelError, match=r"must be imported before .*transformers"):
        load_policy("tiny", PolicyConfig(backend="unsloth"), seed=0)


def test_no_command_imports_what_unsloth_patches_before_it_loads_a_policy() -> None:
    modules = ["loop", "measure.evaluate", "commands.cli", "measure.diagnose", "sweep.run", "policy.factory"]
    code = f"import sys, importlib; [importlib.import_module('expo_lite.' + name) for name in {modules}]; "
    code += "print({'transformers', 'peft', 'trl', 'unsloth'} & set(sys.modules))"
    assert in_own_process("-c", code).splitlines()[-1] == "set()"


def test_auto_takes_unsloth_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu, there, expected in ((True, True, True), (True, False, False), (False, True, False)):
        monkeypatch.setattr(machine, "has_gpu", lambda gpu=gpu: gpu)
        monkeypatch.setattr(machine, "is_installed", lambda package, there=there: there)
        assert machine.takes_unsloth("auto") is expected
        assert machine.takes_unsloth("unsloth")
        assert not machine.takes_unsloth("hf")
