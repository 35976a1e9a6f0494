"""Broken model folders and files: each is an error of the tree that names the model and the matter."""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_decoder import CONFIGS, folder_of
from transformers import AutoTokenizer

from expo_lite.commands.cli import run
from expo_lite.errors import ModelError
from expo_lite.policy.batching import Row
from expo_lite.policy.device import MOST_NF4_ERROR, nf4_error, wrong_widths
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.load import HUB_FILES, _switch_off_dropout, four_bits, load_base
from expo_lite.policy.merged import dequantised
from expo_lite.policy.scoring import score_rows
from expo_lite.policy.self_check import self_check
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import PRESETS

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return shutil.copytree(PRESETS["tiny"].source, tmp_path / "model")


def change(name: str, **values: Any) -> Callable[[Path], None]:
    """Set entries of a JSON file; None removes one."""

    def harm(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) | values
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return harm


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return harm


def remove(*names: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return harm


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def grown_tokenizer(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new{i}>" for i in range(100)])
    tokenizer.save_pretrained(folder)


def own_code(folder: Path) -> None:
    change("config.json", model_type="mine", auto_map={"AutoConfig": "m.Config", "AutoModelForCausalLM": "m.M"})(folder)
    (folder / "m.py").write_text(
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class Config(Qwen2Config):\n    model_type = 'mine'\n"
        "class M(Qwen2ForCausalLM):\n    config_class = Config\n"
    )


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a config": (cut("config.json", 0.5), "Cannot read model"),
    "an unknown architecture": (change("config.json", model_type="mystery"), "Cannot read model"),
    "half the weights": (cut("model.safetensors", 0.5), "Cannot read model"),
    "a weight that is missing": (without_a_weight, "does not fit its config.json"),
    "weights of fewer layers": (
        change("config.json", num_hidden_layers=6, layer_types=["full_attention"] * 6),
        "does not fit",
    ),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), ""),
    "half a tokenizer": (cut("tokenizer.json", 0.5), "Cannot read model"),
    "no chat template": (remove("chat_template.jinja"), "has no chat template. Give an instruct model"),
    "a tokenizer with more tokens than the embedding": (grown_tokenizer, "has an embedding of 512 tokens, and its tok"),
    "code of its own": (own_code, "runs Python code of its own: read it, then take --trust-remote-code"),
    "weights that GPTQ has quantised": (
        change("config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
        "is stored quantised (gptq). Give its original",
    ),
    "an adapter's folder": (
        lambda folder: shutil.copy(folder / "config.json", folder / "adapter_config.json"),
        "is an adapter. Download it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMS)
def test_a_folder_that_is_no_model_of_ours(name: str, model: Path) -> None:
    harm, text = HARMS[name]
    harm(model)
    with pytest.raises(ModelError) as caught:
        load_base(str(model), "mine", PolicyConfig(), CPU)
    message = str(caught.value)
    assert "odel 'mine'" in message
    assert text in message
    assert "\n" not in message


def test_the_folder_of_another_model(model: Path) -> None:
    """GPT-2 has no linear layers, but Conv1D."""
    from transformers import GPT2Config, GPT2LMHeadModel

    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    other: Any = GPT2LMHeadModel
    other(GPT2Config(vocab_size=vocabulary, n_embd=64, n_layer=1, n_head=1, n_positions=64)).save_pretrained(model)
    with pytest.raises(ModelError, match=r"has no linear layers \(torch.nn.Linear\)"):
        load_base(str(model), "mine", PolicyConfig(bits=16), CPU)


def test_code_of_its_own_runs_where_it_is_trusted(model: Path) -> None:
    own_code(model)
    loaded, _ = load_base(str(model), "mine", PolicyConfig(bits=16, trust_remote_code=True), CPU)
    assert type(loaded).__name__ == "M"


def test_a_base_that_is_stored_in_four_bits(tmp_path: Path) -> None:
    """16 bits hold what the four have; to ask for nothing leaves it as it is."""
    four, tokenizer = load_base(PRESETS["tiny"].source, "tiny", PolicyConfig(), CPU)
    four.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    name = "model.layers.0.mlp.up_proj"
    expected = dequantised(four_bits(four)[name].weight)
    assert four_bits(load_base(str(tmp_path), "mine", PolicyConfig(), CPU)[0])
    with pytest.warns(UserWarning, match="'mine' is stored in 4 bits"):
        dense, _ = load_base(str(tmp_path), "mine", PolicyConfig(bits=16), CPU)
    assert not four_bits(dense)
    assert torch.equal(dense.get_submodule(name).weight, expected)


def test_no_dropout_of_the_base_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a family whose attention is not ours, and that has dropout in three places."""
    dropout = {"attention_dropout": 0.3, "residual_dropout": 0.2, "embedding_dropout": 0.1}
    monkeypatch.setitem(CONFIGS, "star", {"model_type": "granite", "embedding_multiplier": 1.0} | dropout)
    policy = HfPolicy(str(folder_of("star", tmp_path)), PolicyConfig(bits=16, lora_rank=4), seed=0)
    rows = [Row((1, 5, 9), (7, 8)), Row((4, 4), (30, 31, 32))]
    first, again = (torch.cat(score_rows(policy, rows, temperature=1.0, token_budget=64)) for _ in range(2))
    assert torch.equal(first, again)
    assert policy.base_model.config.attention_dropout == 0
    self_check(policy, [(1, 5, 9), (4, 4, 8, 9)], temperature=1.0, token_budget=64)
    _switch_off_dropout(block := torch.nn.Sequential(torch.nn.Dropout(0.5)))
    assert torch.equal(block(torch.ones(99)), torch.ones(99))


@pytest.fixture
def odd(model: Path) -> Path:
    """A model whose MLP is 400 wide: 25 x 16, and no multiple of 64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    change("config.json", intermediate_size=400)(model)
    auto: Any = AutoModelForCausalLM
    auto.from_config(AutoConfig.from_pretrained(model)).save_pretrained(model)
    return model


def test_widths_that_four_bits_get_wrong_here_are_refused(odd: Path) -> None:
    error = nf4_error(400, CPU)
    if error <= MOST_NF4_ERROR:
        pytest.skip("bitsandbytes is right on this CPU")
    with pytest.raises(ModelError, match=rf"weights of 400 inputs back .* {error:.0%}, .* Take --bits 16") as caught:
        load_base(str(odd), "odd", PolicyConfig(bits=4), CPU)
    assert str(caught.value).startswith("Model 'odd' cannot be held in 4 bits here: bitsandbytes ")
    load_base(str(odd), "odd", PolicyConfig(bits=16), CPU)


def test_what_four_bits_cost_where_they_are_right() -> None:
    """A width of whole blocks, and one that is no multiple of 16."""
    for width in (128, 200):
        assert nf4_error(width, CPU) == pytest.approx(0.092, abs=0.004)
    assert wrong_widths([128, 64, 200], CPU) == {}


@pytest.mark.parametrize("content", [b"", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_file_that_is_no_gguf(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=f"Cannot read model 'mine' from '{file}'"):
        load_base(str(file), "mine", PolicyConfig(), CPU)


def test_no_pickle_is_fetched_from_the_hub() -> None:
    assert not any(pattern.endswith((".bin", ".pt", ".pth", ".ckpt", "*")) for pattern in HUB_FILES)
    fetched = [name for name in ("model-00001-of-00002.safetensors", "model.safetensors", "consolidated.safetensors")
               if any(fnmatch(name, pattern) for pattern in HUB_FILES)]  # fmt: skip
    assert fetched == ["model-00001-of-00002.safetensors", "model.safetensors"]


def test_what_is_wrong_is_said_by_the_command_line_and_no_run_folder_is_made(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut("model.safetensors", 0.9)(model)
    words = ["train", "--model", str(model), "--max-completion-tokens", "64", "--output", str(tmp_path / "run")]
    assert run(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: Cannot read model '{model}' from '{model}': ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_hub_model_without_a_network() -> None:
    """The tests run with HF_HUB_OFFLINE."""
    with pytest.raises(
        ModelError,
        match=r"is not wholly in the hub's cache.*`hf download nobody/no-such-model`.*'tiny' needs no",
    ):
        load_base("nobody/no-such-model", "nobody/no-such-model", PolicyConfig(), CPU)
