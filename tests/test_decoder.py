"""The decoder against transformers' forward pass: every architecture, adapter on and off, both bits."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shaken import shaken
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from expo_lite.errors import ModelError
from expo_lite.memory.shapes import ALIASES_FILE
from expo_lite.policy.decoder import Decoder, Replays
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.merged import is_known, merge
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import PRESETS

SIZES = {
    "vocab_size": 512,  # as many as the tokenizer of tiny needs
    "hidden_size": 64,
    "intermediate_size": 128,  # whole blocks of 64: bitsandbytes reads others back wrongly on some CPUs
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2": {"model_type": "llama", "num_attention_heads": 6, "hidden_size": 192},  # 3 query heads a key head
    "llama-3.2": {
        "model_type": "llama",
        "rope_parameters": LLAMA_3 | {"rope_theta": 500.0, "original_max_position_embeddings": 32},
    },
    "qwen2.5": {"model_type": "qwen2"},
    "qwen2.5-7b": {"model_type": "qwen2", "tie_word_embeddings": False, "num_key_value_heads": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
}
PROMPTS = ((5, 6, 7, 8, 9), (300,), tuple(range(40, 90)))


def folder_of(kind: str, root: Path) -> Path:
    """A tiny model of this kind."""
    return random_model(SIZES | CONFIGS[kind], root)


def random_model(sizes: dict[str, Any], root: Path, auto: Any = AutoModelForCausalLM) -> Path:
    """A model of these sizes with random weights, biases and norms, and the tokenizer of tiny."""
    config: Any = CONFIG_MAPPING[sizes["model_type"]]
    torch.manual_seed(0)
    model = auto.from_config(config(**{name: value for name, value in sizes.items() if name != "model_type"}))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(root)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (Path(PRESETS["tiny"].source) / name).exists():
            shutil.copy(Path(PRESETS["tiny"].source) / name, root)
    return root


@pytest.fixture(scope="module", params=[*((kind, 16) for kind in CONFIGS), ("qwen2.5", 4)], ids=str)
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfPolicy:
    kind, bits = request.param
    folder = folder_of(kind, tmp_path_factory.mktemp("model"))
    return shaken(HfPolicy(str(folder), PolicyConfig(bits=bits, lora_rank=4), seed=0), 0.1)


def check_logits(policy: HfPolicy, decoder: Decoder, width: int = 64) -> None:
    """Prompts in shared slots, then six tokens each: all logits are those of whole forward passes."""
    owners = [0, 1, 2, 0, 2]
    cache, rope = decoder.new_cache(6, 64), decoder.rope_table(64)
    tokens_RT = torch.randint(384, (5, 6), generator=torch.Generator().manual_seed(1))
    slots_R, lengths_R = torch.arange(5), torch.tensor([len(PROMPTS[owner]) for owner in owners])
    with torch.no_grad():
        hidden_PH = decoder.prefill(cache, PROMPTS, [[0, 3], [1], [2, 4]], rope)
        found = [decoder.logits(hidden_PH)[owners]]
        for t in range(6):
            hidden_RH = decoder.step(cache, tokens_RT[:, t], slots_R, lengths_R + t, rope, width)
            found.append(decoder.logits(hidden_RH))
        policy._enter("sampling")
        for row, owner in enumerate(owners):
            ids = [*PROMPTS[owner], *tokens_RT[row].tolist()]
            logits_TV = policy.base_model(torch.tensor([ids]), use_cache=False).logits[0, len(PROMPTS[owner]) - 1 :]
            assert logits_TV.abs().max() > 0.5
            torch.testing.assert_close(torch.stack([step[row] for step in found]), logits_TV, rtol=0, atol=1e-4)


def test_logits_are_those_of_transformers_with_the_adapter_and_without(policy: HfPolicy) -> None:
    adapted = Decoder(merge(policy.base_model))
    check_logits(policy, adapted)
    with policy.reference():
        base = Decoder(merge(policy.base_model))
        check_logits(policy, base)
        with pytest.raises(AssertionError, match="not close"):
            check_logits(policy, adapted)


def test_logits_of_what_runs_on_a_gpu_are_the_same(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own products, one attention kernel, keys token by token."""
    monkeypatch.setattr("expo_lite.policy.products.has_onednn", lambda *_: False)
    decoder = Decoder(merge(policy.base_model), fused=True)
    assert not decoder.weights.layers[0].qkv.is_packed
    assert decoder.new_cache(1, 8).keys[0].is_contiguous()
    check_logits(policy, decoder)


def test_every_alias_is_known() -> None:
    configs: dict[str, dict[str, Any]] = json.loads(ALIASES_FILE.read_text())
    assert len(configs) > 10
    unknown = set()
    for sizes in configs.values():
        kind: Any = CONFIG_MAPPING[sizes["model_type"]]
        if not is_known(kind(**{name: value for name, value in sizes.items() if name != "model_type"})):
            unknown.add(sizes["model_type"])
    assert unknown == {"gemma4_text", "qwen3_5_text", "phi3"}  # transformers samples these


def test_other_models_are_sampled_by_their_own_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "other", {"model_type": "llama", "hidden_act": "gelu"})
    folder = folder_of("other", tmp_path)
    policy = HfPolicy(str(folder), PolicyConfig(bits=16), seed=0)
    assert not is_known(policy.base_model.config)
    assert policy._sampler == "native"
    with pytest.raises(ModelError, match="--sampler native"):
        HfPolicy(str(folder), PolicyConfig(bits=16, sampler="own"), seed=0)


class FakeStreams:
    """Torch's streams; a recording that fails leaves its stream current, as in torch 2.11 to 2.14."""

    def __init__(self, patch: pytest.MonkeyPatch, *, fails: bool) -> None:
        self.made = 0
        self.main = self.current = SimpleNamespace(wait_stream=lambda _: None)
        self.fails = fails
        self.recorded_on: list[Any] = []
        for name, fake in {
            "Stream": self.new,
            "current_stream": lambda: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "stream": self.on,
            "graph": self.graph,
            "CUDAGraph": lambda: SimpleNamespace(pool=lambda: "pool", replay=lambda: None),
        }.items():
            patch.setattr(torch.cuda, name, fake)
        patch.setattr(Replays, "failed", False)
        patch.setattr(Replays, "stream", None)

    def new(self) -> Any:
        self.made += 1
        return SimpleNamespace(wait_stream=lambda _: None)

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        self.recorded_on.append(stream)
        yield
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.current = before


def test_a_step_that_cannot_be_recorded_is_tried_once_and_leaves_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, steps = FakeStreams(monkeypatch, fails=True), list[str]()
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        Replays()((8, 256), lambda: steps.append("a"))
    assert cuda.current is cuda.main
    Replays()((8, 512), lambda: steps.append("b"))  # another sampling call of the process
    assert steps == ["a", "a", "b"]  # run and recorded; run alone
    assert len(cuda.recorded_on) == 1


def test_all_recordings_share_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeStreams(monkeypatch, fails=False)
    for _ in range(2):
        replays = Replays()
        for shape in (1, 2, 1):
            replays(shape, lambda: None)
    assert (cuda.made, len(cuda.recorded_on)) == (1, 4)
    assert all(stream is Replays.stream for stream in cuda.recorded_on)
