"""The transformers policy: what is trained, what is not, what is saved, and what the reference is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from full_disk import largest_file
from peft import PeftModel
from shaken import shaken

from expo_lite.errors import CheckpointError
from expo_lite.policy.batching import MicroBatch, Row, micro_batches
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.load import load_base
from expo_lite.policy.lora import _end_id, _eos_ids
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_question
from expo_lite.records import Problem, SampleRequest, SamplingParams
from expo_lite.settings.groups import PROJECTIONS, PolicyConfig
from expo_lite.settings.models import PRESETS

TINY = PRESETS["tiny"].source
CONFIG = PolicyConfig(lora_rank=4, lora_alpha=8)


def fresh(seed: int = 0, **changes: Any) -> HfPolicy:
    return HfPolicy("tiny", PolicyConfig(**({"lora_rank": 4, "lora_alpha": 8} | changes)), seed=seed)


@pytest.fixture
def policy() -> HfPolicy:
    return shaken(fresh(), 0.02, seed=1)


def batch(policy: HfPolicy) -> MicroBatch:
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(3, 300, (n,), generator=generator).tolist() for n in (30, 24)]
    (made,) = micro_batches([Row(tuple(i[:10]), tuple(i[10:])) for i in ids], token_budget=999, pad_id=policy.pad_id)
    return made


def scores(policy: HfPolicy) -> torch.Tensor:
    return policy.logprobs(batch(policy), temperature=1.0).detach()


def test_the_reference_is_the_base_and_comes_back_off_after_an_error(policy: HfPolicy) -> None:
    adapted, base = scores(policy), scores(fresh())  # a fresh adapter changes nothing
    assert not torch.allclose(adapted, base, atol=1e-3)
    with pytest.raises(ZeroDivisionError), policy.reference():
        assert torch.equal(scores(policy), base)
        raise ZeroDivisionError
    assert torch.equal(scores(policy), adapted)


def test_a_seed_is_an_adapter_and_nobody_elses_random_numbers_are_used() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = fresh(1), fresh(1), fresh(2)
    assert torch.equal(torch.rand(3), expected)
    name = next(name for name in one.parameters() if "lora_A" in name)
    a, b, c = (policy.parameters()[name] for policy in (one, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert all(not p.any() for name, p in one.parameters().items() if "lora_B" in name)


def test_the_adapter_is_on_all_seven_projections_and_the_base_is_frozen(policy: HfPolicy) -> None:
    n_layers = policy.base_model.config.num_hidden_layers
    names = list(policy.parameters())
    assert len(names) == n_layers * len(PROJECTIONS) * 2
    for projection in PROJECTIONS:
        assert sum(f".{projection}.lora_" in name for name in names) == n_layers * 2
    assert all(min(parameter.shape) == 4 for parameter in policy.parameters().values())
    policy.logprobs(batch(policy), temperature=1.0).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in policy._peft.named_parameters():
        assert (parameter.grad is not None) == (name in policy.parameters())
        assert parameter.dtype == torch.float32 or name not in policy.parameters()


@pytest.mark.parametrize("bits", [4, 16])
def test_bits(bits: int) -> None:
    model = fresh(bits=bits).base_model
    quantised = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(quantised) == (model.config.num_hidden_layers * len(PROJECTIONS) if bits == 4 else 0)
    for module in quantised:
        weight: Any = module.weight
        state = weight.quant_state
        assert (state.quant_type, state.nested, module.compute_dtype) == ("nf4", True, torch.float32)
        assert module.support_avx512bf16_for_cpu is False
    assert {p.dtype for p in model.parameters()} == ({torch.float32, torch.uint8} if bits == 4 else {torch.float32})


def test_scoring_does_not_depend_on_what_was_sampled_before(policy: HfPolicy) -> None:
    """Sampling switches to eval mode, and on some processors bitsandbytes would repack weights there."""
    before = scores(policy)
    prompt = encode_question(policy.tokenizer, Problem("", "Start with 1.", "1"))
    policy.sample([SampleRequest(prompt, 2)], SamplingParams(1.0, 8), seed=0)
    assert torch.equal(scores(policy), before)


def gradients(policy: HfPolicy) -> list[torch.Tensor]:
    policy.logprobs(batch(policy), temperature=1.0).sum().backward()  # type: ignore[no-untyped-call]
    return [p.grad for p in policy.parameters().values() if p.grad is not None]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    policy = shaken(fresh(), 0.02, seed=1)
    with_it = [gradient.clone() for gradient in gradients(policy)]
    policy.keeps = "activations"
    for parameter in policy.parameters().values():
        parameter.grad = None
    without = gradients(policy)
    assert len(with_it) == len(without) > 0
    torch.testing.assert_close(with_it, without)


def test_temperature_divides_the_logits(policy: HfPolicy) -> None:
    made = batch(policy)
    with torch.no_grad():
        logits_BTV = policy._peft(input_ids=made.input_ids_BT).logits.float()
    for temperature in (0.5, 1.0, 3.0):
        logprobs_NV = (logits_BTV.flatten(0, 1)[made.predictors_N] / temperature).log_softmax(dim=1)
        expected_N = logprobs_NV.gather(1, made.targets_N[:, None]).squeeze(1)
        ours_N = policy.logprobs(made, temperature=temperature).detach()
        torch.testing.assert_close(ours_N, expected_N, rtol=1e-5, atol=1e-5)


def test_what_is_saved_is_what_is_loaded(policy: HfPolicy, tmp_path: Path) -> None:
    policy.save_adapter(tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "expo_lite.json",
    ]
    other = fresh(seed=9)
    other.load_adapter(tmp_path / "a")
    again = HfPolicy("tiny", CONFIG, seed=9, adapter=tmp_path / "a")
    for loaded in (other, again):
        assert torch.equal(scores(loaded), scores(policy))
        assert all(torch.equal(p, policy.parameters()[name]) for name, p in loaded.parameters().items())
    other.save_adapter(tmp_path / "b")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_adapter_folder_is_pefts_own(policy: HfPolicy, tmp_path: Path) -> None:
    """Loaded by peft alone on a base that transformers loaded."""
    policy.save_adapter(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (4, 8, "LORA")
    assert set(settings["target_modules"]) == set(PROJECTIONS)
    assert settings["base_model_name_or_path"] == TINY
    base, _ = load_base(TINY, "tiny", CONFIG, torch.device("cpu"))
    peft: Any = PeftModel
    with torch.no_grad():
        theirs = peft.from_pretrained(base, str(tmp_path))(batch(policy).input_ids_BT).logits
        ours = policy._peft(batch(policy).input_ids_BT).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-5)  # other kernels: rounding of logits of about 10


def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(policy: HfPolicy, tmp_path: Path) -> None:
    policy.save_adapter(tmp_path / "cut")
    file = tmp_path / "cut" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    fresh(lora_rank=2).save_adapter(tmp_path / "rank")
    before = scores(policy)
    for name, text in (
        ("cut", "cannot be read"),
        ("rank", "does not fit this model and LoRA rank: .*lora_A.weight has"),
    ):
        with pytest.raises(CheckpointError, match=f"The adapter in '{tmp_path / name}' {text}"):
            policy.load_adapter(tmp_path / name)
    assert torch.equal(scores(policy), before)


def test_a_full_disk_is_an_error_that_checkpoints_know(policy: HfPolicy, tmp_path: Path) -> None:
    from safetensors import SafetensorError

    with largest_file(1000), pytest.raises((OSError, SafetensorError)):
        policy.save_adapter(tmp_path)


class Tokenizer:
    """As the tokenizers of the aliases are, in what matters here."""

    def __init__(self, vocabulary: list[str], eos: Any, turn_end: str) -> None:
        self._vocabulary = {token: i for i, token in enumerate(vocabulary)}
        self.eos_token_id = eos
        self._turn_end = turn_end

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def apply_chat_template(self, _turns: Any, **_kwargs: Any) -> list[int]:
        return [self._vocabulary[token] for token in ("user", "a", "assistant", "b", self._turn_end, "\n")]


WORDS = ["user", "a", "assistant", "b", "\n"]


@pytest.mark.parametrize(
    ("special", "eos", "generation", "turn_end", "expected", "end"),
    [
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 7, [7, 5], "<|im_end|>", (5, 7), 7),  # Qwen
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 6, 6, "<|im_end|>", (5, 7), 7),  # a GGUF file's wrong one
        (["<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>"], 6, [6, 7], "<|eot_id|>", (6, 7), 6),  # Llama
        (["<s>", "</s>"], None, None, "\n", (6,), 6),  # a template that ends turns without a token
    ],
)
def test_end_tokens(
    special: list[str], eos: Any, generation: Any, turn_end: str, expected: tuple[int, ...], end: int
) -> None:
    tokenizer = Tokenizer(WORDS + special, eos, turn_end)

    class Model:
        class generation_config:
            eos_token_id = generation

    assert _eos_ids(tokenizer, Model) == expected
    assert _end_id(tokenizer, expected) == end


def test_a_gpu_s_cache_is_emptied_between_phases_and_not_within(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = fresh()
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("decoder" if policy._decoder else "none"))
    request, params = SampleRequest((2, 8, 9), 1), SamplingParams(1.0, 2)
    for _ in range(2):
        for _ in range(2):
            policy.sample([request], params, seed=0)
        for _ in range(2):
            score_rows(policy, [Row((2, 8, 9), (30, 31))], temperature=1.0, token_budget=64)
    assert emptied == ["none"] * 4  # the dense weights are gone by then, or not yet made
