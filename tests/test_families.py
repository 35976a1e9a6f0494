"""The model families of today, each as a tiny random model: sampled, scored, trained, saved and exported."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from shaken import shaken
from test_decoder import SIZES, random_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from expo_lite import HeldOutConfig, TrainConfig, train
from expo_lite.errors import ModelError
from expo_lite.policy.batching import Row, collate
from expo_lite.policy.export import check_export, greedy, write_adapter, write_merged
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.load import four_bits, linear_layers
from expo_lite.policy.scoring import score_rows
from expo_lite.policy.self_check import self_check
from expo_lite.records import SampleRequest, SamplingParams
from expo_lite.settings.groups import ExpoConfig, PolicyConfig, RolloutConfig

AUTO: Any = AutoModelForCausalLM
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""The families' own are beyond the vocabulary of tiny."""
LOCAL = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
          "linear_value_head_dim": 16, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
          "num_hidden_layers": 2}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "num_hidden_layers": 2}
CAPPED = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "head_dim": 16}
"""Low enough to show: without them the log-probabilities differ by hundredths."""
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1}  # fmt: skip
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gemma2": LOCAL | CAPPED,
    "gemma3_text": LOCAL | {"head_dim": 16},
    "gemma3n_text": LOCAL | {"head_dim": 16, "intermediate_size": [128] * 4, "num_kv_shared_layers": 2,
                             "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 8,
                             "activation_sparsity_pattern": [0.5] * 4, "laurel_rank": 8},
    "gemma4_text": LOCAL | {"head_dim": 16, "global_head_dim": 32, "vocab_size_per_layer_input": 512,
                            "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2,
                            "final_logit_softcapping": 3.0},
    "qwen3_5_text": LINEAR,
    "qwen3_moe": EXPERTS,
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32},
    "mistral": {"sliding_window": 8},
    "ministral": LOCAL | {"head_dim": 16},
    "ministral3": {"head_dim": 16, "rope_parameters": YARN},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "olmo2": {},
    "olmo3": LOCAL,
    "olmoe": EXPERTS,
    "exaone4": LOCAL,
    "phi": {},
    "phi3": {},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
                "attention_multiplier": 0.1},
    "granitemoeshared": {"logits_scaling": 4.0, "shared_intermediate_size": 32},
    "granitemoehybrid": MAMBA | {"layer_types": ["linear_attention", "full_attention"], "shared_intermediate_size": 32},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128, "lm_head_multiplier": 0.5},
    "llama4_text": {"head_dim": 16, "attention_chunk_size": 8, "num_local_experts": 4, "intermediate_size_mlp": 128,
                    "interleave_moe_layer_step": 2, "num_hidden_layers": 4},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "sliding_window": 8, "rope_parameters": PLAIN_ROPE},
    "cohere2": LOCAL,
    "glm4": {"head_dim": 16},
    "starcoder2": {},
    "nemotron": {},
    "stablelm": {},
    "apertus": {"rope_parameters": PLAIN_ROPE},
    "ernie4_5": {},
    "hunyuan_v1_dense": {"head_dim": 16},
}  # fmt: skip
FAST = ("gemma3_text", "qwen3_5_text", "phi3")
PROMPTS = ((5, 6, 7, 8, 9), (300,), tuple(range(40, 60)))
"""Of unequal lengths, some longer than the window."""


def families(*fast: str) -> pytest.MarkDecorator:
    """All families; those that are not `fast` among the slow tests."""
    names = [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
    return pytest.mark.parametrize("policy", names, indirect=True)


def sizes_of(name: str) -> dict[str, Any]:
    return SIZES | IDS | CONFIGS[name] | {"model_type": name}


@pytest.fixture(scope="module")
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfPolicy:
    folder = random_model(sizes_of(request.param), tmp_path_factory.mktemp("model"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is a mixture of experts")
        return shaken(HfPolicy(str(folder), PolicyConfig(bits=16, lora_rank=4, sampler="native"), seed=0), 0.1)


def whole_pass(policy: HfPolicy, row: Row) -> torch.Tensor:
    """Log-probabilities of a row's completion by transformers' own forward pass and head, the row alone."""
    logits_TV = policy.base_model(torch.tensor([[*row.prompt_ids, *row.completion_ids]]), use_cache=False).logits[0]
    logprobs_NV = torch.log_softmax(logits_TV[len(row.prompt_ids) - 1 : -1].float(), 1)
    return logprobs_NV.gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]


@families(*FAST)
def test_sampler_and_scorer_agree_and_rows_are_independent(policy: HfPolicy) -> None:
    """The sampler pads on the left and the scorer on the right; the scorer's gradient is that of plain autograd."""
    requests = [SampleRequest(prompt, 2) for prompt in PROMPTS]
    completions = [c for group in policy.sample(requests, SamplingParams(1.0, 12), seed=0) for c in group]
    rows = [Row(c.prompt_ids, c.token_ids) for c in completions]
    together = torch.cat(score_rows(policy, rows, temperature=1.0, token_budget=10_000))
    alone = torch.cat([score_rows(policy, [row], temperature=1.0, token_budget=10_000)[0] for row in rows])
    sampled = torch.tensor([logprob for c in completions for logprob in c.logprobs])
    assert (together - alone).abs().max() < 1e-5
    assert (together - sampled).abs().mean() < 1e-5
    assert (together - sampled).abs().max() < 5e-5

    parameters = list(policy.parameters().values())
    batch = collate(rows, range(len(rows)), pad_id=policy.pad_id)
    signs = torch.tensor([1.0, -1.0]).repeat(len(sampled))[: len(sampled)]
    ours = torch.autograd.grad((signs * policy.logprobs(batch, temperature=1.0)).sum(), parameters)
    policy._peft.eval()
    plain = torch.cat([whole_pass(policy, row) for row in rows])
    assert (together - plain).abs().max() < 1e-5
    theirs = torch.autograd.grad((signs * plain).sum(), parameters)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=5e-5 * float(other.abs().max()) + 1e-6)


@families(*FAST)
def test_what_is_saved_and_exported_is_the_policy(policy: HfPolicy, tmp_path: Path) -> None:
    policy.save_adapter(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is a mixture of experts")
        again = HfPolicy(policy.name, PolicyConfig(bits=16, sampler="native"), seed=1, adapter=tmp_path / "adapter")
    rows = [Row(PROMPTS[0], (7, 8, 9)), Row(PROMPTS[2], (30, 31, 32))]
    scores, expected = (score_rows(p, rows, temperature=1.0, token_budget=64) for p in (again, policy))
    assert torch.equal(torch.cat(scores), torch.cat(expected))
    completions = greedy(policy, PROMPTS, 8)
    write_merged(policy, tmp_path / "merged", "f32")
    agreement = check_export(tmp_path / "merged", completions, policy.device)
    assert agreement.n_same == len(PROMPTS)
    assert agreement.mean_nats < 2e-5


@families("gemma3_text")
def test_two_steps_of_training(policy: HfPolicy, tmp_path: Path, unchecked: None) -> None:
    del unchecked
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is a mixture of experts")
        result = train(
            TrainConfig(
                model=policy.name,
                steps=2,
                problems_per_step=1,
                group_size=2,
                output=tmp_path / "run",
                policy=PolicyConfig(bits=16, lora_rank=4),
                sampling=RolloutConfig(max_completion_tokens=6),
                explanation=ExpoConfig(explanation_filter=("none",)),
                evaluation=HeldOutConfig(eval_problems=0),
            )
        )
    assert result.steps == 2
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "adapter_model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_four_bits(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is a mixture of experts")
        policy = HfPolicy(str(random_model(sizes_of(name), tmp_path)), PolicyConfig(bits=4, lora_rank=4), seed=0)
    assert set(linear_layers(policy.base_model)) <= set(four_bits(policy.base_model))
    assert self_check(shaken(policy, 0.1), PROMPTS, temperature=1.0, token_budget=256) < 1e-4


VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": sizes_of("gemma3_text"), "mm_tokens_per_image": 4,
               "vision_config": VISION | {"model_type": "siglip_vision_model"}},
    "gemma4": {"text_config": sizes_of("gemma4_text"),
               "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16,
                                 "num_attention_heads": 2, "num_key_value_heads": 2, "global_head_dim": 16}},
    "qwen3_5": {"text_config": sizes_of("qwen3_5_text"), "tie_word_embeddings": True,
                "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
                                  "out_hidden_size": 64}},
    "mistral3": {"text_config": sizes_of("ministral3") | {"tie_word_embeddings": False},
                 "vision_config": VISION | {"model_type": "pixtral", "head_dim": 16}, "tie_word_embeddings": False},
}  # fmt: skip


@pytest.mark.parametrize("name", [name if name == "mistral3" else pytest.param(name, marks=pytest.mark.slow)
                                  for name in WHOLE])  # fmt: skip
def test_the_language_part_of_a_model_that_sees(name: str, tmp_path: Path) -> None:
    folder = random_model(WHOLE[name] | {"model_type": name}, tmp_path / "whole", AutoModelForImageTextToText)
    policy = HfPolicy(str(folder), PolicyConfig(bits=16, lora_rank=4, sampler="native"), seed=0)
    auto: Any = AutoModelForImageTextToText
    expected = auto.from_pretrained(folder, dtype=torch.float32)(input_ids=torch.tensor([PROMPTS[2]])).logits
    policy._peft.eval()
    with torch.no_grad():
        torch.testing.assert_close(policy.base_model(torch.tensor([PROMPTS[2]])).logits, expected, rtol=0, atol=1e-5)
    shaken(policy, 0.1)
    completions = greedy(policy, PROMPTS, 8)
    write_merged(policy, tmp_path / "merged", "f32")
    assert check_export(tmp_path / "merged", completions, policy.device).mean_nats < 2e-5
    if name != "qwen3_5":  # there transformers loads the language part by itself
        with pytest.raises(ModelError, match=r"language part .* Take --to merged"):
            write_adapter(policy, tmp_path / "adapter")


def test_which_layers_get_an_adapter(tmp_path: Path) -> None:
    """As peft's all-linear, without the router and what peft would put on experts; said for a mixture of experts."""
    folder = random_model(sizes_of("qwen3_next"), tmp_path)
    words = r"mixture of experts: the adapter is on in_proj_ba, in_proj_qkvz, k_proj, o_proj, out_proj, q_proj, v_proj,"
    with pytest.warns(UserWarning, match=words):
        policy = HfPolicy(str(folder), PolicyConfig(bits=16, lora_rank=4), seed=0)
    assert {name.split(".")[-4] for name in policy.parameters()} == set(words.partition(" is on ")[2][:-1].split(", "))
    with pytest.raises(ModelError, match="no layer 'w1' to adapt, but in_proj_ba, "):
        HfPolicy(str(folder), PolicyConfig(bits=16, lora_targets=("w1",)), seed=0)


@pytest.mark.slow
def test_a_model_whose_state_leaks_between_rows_is_refused(tmp_path: Path) -> None:
    """RecurrentGemma's recurrence runs over the padding."""
    sizes = SIZES | IDS | {"model_type": "recurrent_gemma", "attention_window_size": 8, "head_dim": 16}
    policy = HfPolicy(str(random_model(sizes, tmp_path)), PolicyConfig(bits=16, lora_rank=4), seed=0)
    with pytest.raises(ModelError, match="pads or masks wrongly"):
        self_check(shaken(policy, 0.1), PROMPTS, temperature=1.0, token_budget=256)
