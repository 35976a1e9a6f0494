"""The model families of today, each as a tiny random model: sampled, scored, trained, saved and exported."""

import json
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from llama import Llama
from safetensors.torch import load_file
from shaken import shaken
from test_decoder import SIZES, check_logits, random_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from expo_lite import HeldOutConfig, TrainConfig, train
from expo_lite.errors import ModelError
from expo_lite.memory.shapes import shape_of
from expo_lite.policy.batching import Row, collate
from expo_lite.policy.decoder import Decoder
from expo_lite.policy.export import (
    check_export,
    greedy,
    plain_config,
    write_adapter,
    write_merged,
)
from expo_lite.policy.gguf_file import write_gguf
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.load import four_bits, has_experts, linear_layers
from expo_lite.policy.merged import is_known, merge
from expo_lite.policy.scoring import packed_hidden, padded_hidden, score_rows
from expo_lite.policy.self_check import self_check
from expo_lite.records import SampleRequest, SamplingParams
from expo_lite.settings.groups import ExpoConfig, PolicyConfig, RolloutConfig
from expo_lite.settings.methods import Method
from expo_lite.settings.models import FAMILIES

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
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1}  # fmt: skip
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
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
    "granite": {"logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
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
    policy._enter("sampling")
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


@pytest.mark.parametrize(
    "policy",
    [
        name
        if name in ("gemma3_text", "olmo3", "ministral3", "smollm3")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in CONFIGS
        if name in FAMILIES
    ],
    indirect=True,
)
def test_own_decoder_and_packed_rows(policy: HfPolicy) -> None:
    """Logits of ragged prompts, one of 50 tokens, after windows of 8; rows of one prompt laid end to end."""
    assert is_known(policy.base_model.config)
    for fused in (False, True):
        check_logits(policy, Decoder(merge(policy.base_model), fused=fused))
    rows = [Row(PROMPTS[2], tuple(range(60 + i, 75 + 2 * i))) for i in range(3)] + [Row((5, 6), (7, 8, 9))]
    batch = collate(rows, range(len(rows)), pad_id=policy.pad_id)
    with torch.no_grad():
        packed, padded = packed_hidden(policy.base_model, batch), padded_hidden(policy.base_model, batch)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


SIXTH = ["full_attention" if i % 6 == 0 else "sliding_attention" for i in range(1, 8)]
WRITTEN = {
    "layer_types": SIXTH,
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 16,
    "rope_parameters": {
        "sliding_attention": PLAIN_ROPE,
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    },
}


def test_a_gguf_file_of_gemma_3_as_transformers_and_llama_cpp_read_it(tmp_path: Path) -> None:
    """Prompts are longer than windows, and each kind of layer has its own rotation; llama.cpp reads GELU in a table."""
    folder = random_model(sizes_of("gemma3_text") | WRITTEN, tmp_path / "model")
    policy = shaken(HfPolicy(str(folder), PolicyConfig(bits=16, lora_rank=4), seed=0), 0.1)
    completions = greedy(policy, PROMPTS, 24)
    write_gguf(policy, tmp_path / "a.gguf", "f32", source=policy.name, name="a")
    found = check_export(tmp_path / "a.gguf", completions, policy.device, plain_config(policy, torch.float32))
    assert (found.n_same, found.mean_nats < 1e-4) == (len(PROMPTS), True)
    model = Llama(tmp_path / "a.gguf")
    for c in completions:
        by_llama_cpp = model.logprobs(c.prompt_ids, c.token_ids, SIZES["vocab_size"])
        assert by_llama_cpp == pytest.approx(c.logprobs, abs=5e-3)


def test_what_gguf_has_no_form_for_is_refused(tmp_path: Path) -> None:
    windowed = LOCAL | {"use_sliding_window": True}
    for name, changes in (("qwen2", windowed), ("gemma3_text", {}), ("smollm3", {})):
        words = f"'{name}'{'' if name == 'smollm3' else ' with these sliding windows'}."
        policy = HfPolicy(str(random_model(sizes_of(name) | changes, tmp_path / name)), PolicyConfig(bits=16), seed=0)
        with pytest.raises(ModelError, match=f"Only llama, qwen2, qwen3, gemma3_text models .*, not {words}"):
            write_gguf(policy, tmp_path / "a.gguf", "f32", source=policy.name, name="a")


@pytest.mark.parametrize("method", ["exp-grpo", pytest.param("exp-dpo", marks=pytest.mark.slow)])
@families("gemma3_text")
def test_two_steps_at_once_and_resumed_end_alike(
    policy: HfPolicy, method: Method, tmp_path: Path, unchecked: None
) -> None:
    del unchecked
    whole = TrainConfig(
        model=policy.name,
        method=method,
        steps=2,
        save_every=1,
        problems_per_step=1,
        group_size=2,
        output=tmp_path / "whole",
        policy=PolicyConfig(bits=16, lora_rank=4),
        sampling=RolloutConfig(max_completion_tokens=6),
        explanation=ExpoConfig(explanation_filter=("none",)),
        evaluation=HeldOutConfig(eval_problems=0),
        diagnose_first=0,
    )
    parts = replace(whole, output=tmp_path / "parts")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is a mixture of experts")
        train(whole)
        train(replace(parts, steps=1))
        assert train(replace(parts, resume=True)).steps == 2
    one, two, resumed = (
        load_file(tmp_path / run / "checkpoints" / f"step-00000{step}" / "adapter_model.safetensors")
        for run, step in (("whole", 1), ("whole", 2), ("parts", 2))
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(two[name], resumed[name]) for name in two)


@pytest.mark.parametrize("name", [*(name for name in CONFIGS if name in FAMILIES), "gemma4_text", "qwen3_5_text"])
def test_the_plan_counts_every_parameter(name: str) -> None:
    """Of its configuration as it is on the hub, and as transformers saves it, which has other names for some sizes."""
    sizes = sizes_of(name)
    assert shape_of(sizes).n_parameters == parameters_of(sizes)
    kind: Any = CONFIG_MAPPING[name]
    saved = kind(**{key: value for key, value in sizes.items() if key != "model_type"}).to_json_string()
    assert shape_of(json.loads(saved)).n_parameters == shape_of(sizes).n_parameters


def test_the_plan_counts_keys_that_are_values() -> None:
    """As in the larger models of Gemma 4."""
    sizes = sizes_of("gemma4_text") | {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
    sizes |= {"hidden_size_per_layer_input": 0, "use_double_wide_mlp": True}
    assert shape_of(sizes).n_parameters == parameters_of(sizes)


def parameters_of(sizes: dict[str, Any]) -> int:
    """The number of a model's parameters, made without weights."""
    kind: Any = CONFIG_MAPPING[sizes["model_type"]]
    with torch.device("meta"):
        model = AUTO.from_config(kind(**{name: value for name, value in sizes.items() if name != "model_type"}))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gemma3n_text"])
def test_four_bits(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is a mixture of experts")
        try:
            policy = HfPolicy(str(random_model(sizes_of(name), tmp_path)), PolicyConfig(bits=4, lora_rank=4), seed=0)
        except ModelError as error:  # experts of 32 inputs, which bitsandbytes gets wrong on a CPU with AVX-512
            assert "weights of 32 inputs back with an error of" in str(error)
            return
    layers = {layer for layer in linear_layers(policy.base_model) if ".lora_" not in layer}
    assert layers <= set(four_bits(policy.base_model))
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
    policy._enter("sampling")
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


GUIDE = Path(__file__).parents[1] / "examples" / "guides" / "models.md"
MARK = "<!-- families -->\n"
UNSLOTH = ("llama", "mistral", "gemma", "gemma2", "qwen2", "qwen3", "qwen3_moe")
"""Model types with code of their own in Unsloth's loader; it takes others through a general path."""
EXAMPLES = {
    "llama": "Llama 3, SmolLM2", "qwen2": "Qwen2.5", "qwen3": "Qwen3", "gemma": "Gemma", "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3", "gemma3n_text": "Gemma 3n", "gemma4_text": "Gemma 4", "qwen3_5_text": "Qwen3.5",
    "qwen3_moe": "Qwen3 30B-A3B", "qwen3_next": "Qwen3-Next", "mistral": "Mistral 7B", "ministral": "Ministral 8B",
    "ministral3": "Ministral 3", "smollm3": "SmolLM3", "olmo2": "OLMo 2", "olmo3": "OLMo 3", "exaone4": "EXAONE 4",
    "phi": "Phi 2", "phi3": "Phi 3, Phi-4-mini", "lfm2": "LFM2", "granite": "Granite 3",
    "granitemoehybrid": "Granite 4", "falcon_h1": "Falcon H1", "llama4_text": "Llama 4", "gpt_oss": "gpt-oss",
    "cohere2": "Command R7B", "glm4": "GLM-4", "olmoe": "OLMoE", "nemotron": "Minitron", "stablelm": "StableLM 2",
    "starcoder2": "StarCoder2", "apertus": "Apertus", "ernie4_5": "ERNIE 4.5", "hunyuan_v1_dense": "Hunyuan",
}  # fmt: skip


def row_of(name: str, root: Path) -> str:
    """A family's row of the guide's table, each cell tried with its tiny random model."""
    sizes = sizes_of(name)
    folder = str(random_model(sizes, root))

    def loaded(bits: Literal[4, 16]) -> HfPolicy:
        return shaken(HfPolicy(folder, PolicyConfig(bits=bits, lora_rank=4, sampler="native"), seed=0), 0.1)

    def agrees(policy: HfPolicy, sampler: str) -> tuple[str, float]:
        """Compare the sampler's log-probabilities with the scorer's; and its CPU seconds."""
        policy._sampler, start = sampler, time.process_time()
        groups = policy.sample([SampleRequest(prompt, 8) for prompt in PROMPTS], SamplingParams(1.0, 12), seed=0)
        seconds, completions = time.process_time() - start, [c for group in groups for c in group]
        scores = score_rows(policy, [Row(c.prompt_ids, c.token_ids) for c in completions[::5]], temperature=1.0,
                            token_budget=1024)  # fmt: skip
        sampled = torch.tensor([logprob for c in completions[::5] for logprob in c.logprobs])
        return "yes" if float((torch.cat(scores) - sampled).abs().mean()) < 1e-4 else "no", seconds

    policy = loaded(16)
    native, native_s = agrees(policy, "native")
    own, own_s = agrees(policy, "own") if is_known(policy.base_model.config) else ("no", 0.0)
    try:
        four = agrees(loaded(4), "native")[0]
    except ModelError:
        four = "no"
    try:
        off = shape_of(sizes).n_parameters / parameters_of(sizes) - 1
        plan = "exact" if off == 0 else (f"{off:+.0%}" if abs(off) >= 0.005 else "under 1% off")
    except (KeyError, TypeError):
        plan = "no"
    cells = [
        EXAMPLES.get(name, ""),
        "all but experts" if native == "yes" and has_experts(policy.base_model) else native,
        "yes" if policy.packs else "no",
        own,
        four,
        "yes" if name in FAMILIES and FAMILIES[name].gguf else "no",
        "its own code" if name in UNSLOTH else "general path",
        plan,
        f"{own_s / native_s:.2f}" if own == "yes" else "",
    ]
    return f"| `{name}` | {' | '.join(cells)} |\n"


def write_table(names: list[str]) -> None:
    """Write these rows of the table of families in the guide, or all of them, as each is known."""
    title = "| model type | such as | trains | packed | own decoder | 4 bits | GGUF | Unsloth | plan | own / native |\n"
    for name in names or CONFIGS:
        with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = row_of(name, Path(root))
        before, _, rest = GUIDE.read_text(encoding="utf-8").partition(MARK)
        table, _, after = rest.partition(MARK)
        rows = {line.split("`")[1]: f"{line}\n" for line in table.splitlines() if "`" in line} | {name: row}
        lines = [title, "| --- " * 10 + "|\n", *(rows[known] for known in CONFIGS if known in rows)]
        GUIDE.write_text(before + MARK + "".join(lines) + MARK + after, encoding="utf-8")


def test_the_guide_has_every_family() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"| `{name}` | " in text for name in CONFIGS)


if __name__ == "__main__":
    write_table(sys.argv[1:])
