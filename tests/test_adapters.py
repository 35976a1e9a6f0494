"""Adapters that peft has made: each is loaded as peft has it, or refused by the name of what is unknown here."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from shaken import shaken
from transformers import AutoModelForCausalLM

from expo_lite import TrainConfig, train
from expo_lite.commands.command import say_device
from expo_lite.commands.export import Destination, card_of
from expo_lite.errors import CheckpointError, ConfigError, ModelError
from expo_lite.policy.batching import Row
from expo_lite.policy.export import write_merged
from expo_lite.policy.factory import load_policy
from expo_lite.policy.scoring import score_rows
from expo_lite.policy.self_check import self_check
from expo_lite.records import Problem
from expo_lite.run.folder import RunFolder
from expo_lite.run.target import as_it_is, find_target, resolve_run, run_prompts
from expo_lite.settings.groups import PROJECTIONS, HeldOutConfig, PolicyConfig
from expo_lite.settings.models import PRESETS
from expo_lite.terminal import Terminal

ROWS = [Row((1, 5, 9), (7, 8)), Row((4, 4), (30, 31, 32))]
AUTO: Any = AutoModelForCausalLM
QV = {"target_modules": ["q_proj", "v_proj"]}


def written(folder: Path, **settings: Any) -> tuple[Path, torch.Tensor]:
    """An adapter with noise in every factor, on `tiny` in full precision, and the scores that peft gives the rows."""
    torch.manual_seed(0)
    usual = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": [*PROJECTIONS]}
    lora: Any = LoraConfig
    model: Any = get_peft_model(
        AUTO.from_pretrained(PRESETS["tiny"].source, dtype=torch.float32), lora(**usual | settings)
    ).eval()
    scores = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
        for row in ROWS:
            ids_1T = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            logprobs_TV = model(ids_1T).logits[0, len(row.prompt_ids) - 1 : -1].log_softmax(1)
            scores.append(logprobs_TV.gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0])
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder, torch.cat(scores)


def scored(folder: Path) -> torch.Tensor:
    target = as_it_is(find_target(str(folder)))
    policy = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    self_check(policy, [(1, 5, 9), (4, 4, 8, 9)], temperature=1.0, token_budget=64)  # the sampler has it too
    return torch.cat(score_rows(policy, ROWS, temperature=1.0, token_budget=64))


@pytest.mark.parametrize(
    "settings",
    [
        QV,
        {"target_modules": "all-linear", "lora_dropout": 0.3, "init_lora_weights": "orthogonal"},
        QV | {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3}},
        {"layers_to_transform": 0},
        {"target_modules": r".*self_attn\.q_proj"},
        QV | {"exclude_modules": ["layers.1.self_attn.q_proj"], "init_lora_weights": "gaussian"},
        {"target_modules": [f"model.layers.{i}.mlp.up_proj" for i in range(2)]},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_an_adapter_means_what_it_means_in_peft(settings: dict[str, Any], tmp_path: Path) -> None:
    folder, expected = written(tmp_path / "a", **settings)
    torch.testing.assert_close(scored(folder), expected, rtol=0, atol=1e-4)


CHANGED = [
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
    ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    ({"init_lora_weights": "mica"}, "init_lora_weights='mica'"),
    ({"use_dora": True}, "use_dora"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ({"bias": "all"}, "bias"),
    ({"modules_to_save": ["norm"]}, "modules_to_save"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    ({"target_parameters": ["self_attn.q_proj.weight"], "target_modules": ["v_proj"]}, "target_parameters"),
    ({"target_modules": ["q_proj", "lm_head"]}, "target_modules='lm_head'"),
    ({"target_modules": ["embed_tokens"]}, "target_modules='embed_tokens'"),
    ({"target_modules": ".*(q_proj|v_proj)"}, r"target_modules='\*\(q_proj\|v_proj\)'"),
]


@pytest.mark.filterwarnings("ignore")  # of peft, at such adapters
@pytest.mark.parametrize(("settings", "name"), CHANGED, ids=[name for _, name in CHANGED])
def test_an_adapter_that_means_something_else_is_refused_by_name(
    settings: dict[str, Any], name: str, tmp_path: Path
) -> None:
    folder, _ = written(tmp_path / "a", **settings)
    with pytest.raises(CheckpointError, match=f"uses .*{name}.*, which is not supported; peft can merge it"):
        find_target(str(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [("init_lora_weights", "corda"), ("init_lora_weights", "loftq"), ("init_lora_weights", "lora_ga"),
     ("peft_type", "ADALORA"), ("task_type", "SEQ_CLS"), ("lora_bias", True), ("use_qalora", True),
     ("kasa_config", {"a": 1}), ("a_field_of_a_later_peft", 1)],
)  # fmt: skip
def test_other_fields_that_change_an_adapter(field: str, value: Any, tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "a")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(CheckpointError, match=field):
        find_target(str(folder))


def test_trained_embeddings_are_named(tmp_path: Path) -> None:
    """As peft writes them where the vocabulary has grown; their configuration does not say so."""
    folder, _ = written(tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.model.embed_tokens.weight": torch.zeros(3, 2)}, file)
    with pytest.raises(
        CheckpointError, match=r"embed_tokens.weight has the shape \(3, 2\) there and None here \(1 of 56"
    ):
        scored(folder)


def test_training_on_some_projections(tmp_path: Path, unchecked: None) -> None:
    policy, held_out = PolicyConfig(lora_targets=("q_proj", "v_proj"), lora_rank=4), HeldOutConfig(eval_problems=0)
    few: dict[str, Any] = {"steps": 1, "problems_per_step": 2, "evaluation": held_out, "method": "sft"}
    train(TrainConfig(model="tiny", policy=policy, output=tmp_path / "run", **few))
    found = find_target(str(tmp_path / "run"))
    assert found.adapter is not None
    names = load_file(found.adapter / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "v_proj"}
    went_on = resolve_run(TrainConfig(model=str(tmp_path / "run")))
    assert (went_on.policy.lora_targets, went_on.policy.bits) == (("q_proj", "v_proj"), 4)
    with pytest.raises(ConfigError, match="lora_targets"):
        resolve_run(TrainConfig(model=str(tmp_path / "run"), policy=PolicyConfig(lora_targets=("k_proj",))))
    with pytest.raises(ModelError, match="no layer 'w1' to adapt, but down_proj, gate_proj, "):
        load_policy("tiny", PolicyConfig(lora_targets=("w1",)), seed=0)


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on a base in 16 bits."""
    folder = tmp_path_factory.mktemp("adapters") / "sixteen"
    shaken(load_policy("tiny", PolicyConfig(bits=16, lora_rank=4), seed=0), 0.1).save_adapter(folder)
    return folder


def test_the_bits_of_training_travel_with_the_adapter(sixteen: Path, tmp_path: Path) -> None:
    target = find_target(str(sixteen))
    assert (target.policy.bits, as_it_is(target).policy.bits, target.other_bits) == (16, 16, "")
    assert resolve_run(TrainConfig(model=str(sixteen))).policy.bits == 16
    base = AUTO.from_pretrained(PRESETS["tiny"].source, dtype=torch.float32)
    peft: Any = PeftModel
    expected = peft.from_pretrained(base, str(sixteen)).merge_and_unload().state_dict()
    policy: Any = load_policy(target.model, as_it_is(target).policy, seed=0, adapter=sixteen)
    write_merged(policy, tmp_path, "f32")
    found = load_file(tmp_path / "model.safetensors")
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.3.self_attn.q_proj.weight"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    place = Destination(target, "merged", "f32", "", tmp_path, Problem("", "", ""))
    assert "taken in 16 bits, as in training." in card_of(place, None, None)


def test_other_bits_are_asked_for_and_said(sixteen: Path, tmp_path: Path) -> None:
    said = "was trained on 16 bits, and its base is loaded in 4"
    target = as_it_is(find_target(str(sixteen)), 4)
    console = Terminal(record=True, width=200, file=io.StringIO())
    say_device(console, target)
    assert said in console.export_text()
    config = resolve_run(TrainConfig(model=str(sixteen), policy=PolicyConfig(bits=4), output=tmp_path / "run"))
    assert config.policy.bits == 4
    warned: list[str] = []
    run_prompts(config, RunFolder(config.output), warned.append)
    assert said in warned[0]
    place = Destination(target, "merged", "bf16", "", tmp_path, Problem("", "", ""))
    assert "taken in 4 bits, at commit abc." in card_of(place, None, "abc")


def test_an_adapter_that_does_not_say_its_bits(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "a")
    target = find_target(str(folder))
    assert (target.policy.bits, as_it_is(target).policy.bits, find_target(str(folder), bits=16).policy.bits) == (
        4,
        16,
        16,
    )
    assert "does not say its base's bits, and its base is loaded in 4" in target.other_bits
    assert resolve_run(TrainConfig(model=str(folder), policy=PolicyConfig(bits=16))).policy.bits == 16
