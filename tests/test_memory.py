"""The memory plan against sums by hand, against the code itself run without weights, and against a real step."""

import json
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from simulated_update import Measured, MemoryTracker, measure_update, simulation

from expo_lite.memory import plan as memory
from expo_lite.memory.limits import Limits
from expo_lite.memory.plan import GIB, Keeps, Workload, largest, longest_completion, make_plan, phases, plan_for
from expo_lite.memory.shapes import ALIASES_FILE, Shape, find_shape, shape_of
from expo_lite.objectives import token_logprobs
from expo_lite.policy.batching import Row
from expo_lite.policy.decoder import SlotCache
from expo_lite.policy.hf import HfPolicy
from expo_lite.settings.groups import LossConfig, PolicyConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import learn, make_optimizer

CONFIGS: dict[str, dict[str, Any]] = json.loads(ALIASES_FILE.read_text())
SMALL = Shape(
    hidden=8, intermediate=16, layers=2, heads=4, kv_heads=2, head_dim=2, vocabulary=32, positions=64, tied=True
)


def total(parts: dict[str, float]) -> float:
    return sum(parts.values())


def test_weights_by_hand() -> None:
    # q 8x8, k and v 8x4, o 8x8, gate, up and down 8x16: 64 + 32 + 32 + 64 + 3 * 128 = 576 a layer
    assert SMALL.n_projection_weights == 2 * 576
    assert SMALL.n_embedding_weights == 256
    assert SMALL.n_other_weights == 2 * 16 + 8
    assert SMALL.n_parameters == 1152 + 256 + 40
    assert SMALL.n_adapter_weights(3) == 2 * 3 * (16 + 12 + 12 + 16 + 3 * 24)
    parts = memory.base_parts(SMALL, Workload(bits=4))
    # half a byte a weight; a byte for 64 of them; four for 256 of those; the rest in bf16
    assert parts["four-bit weights"] == 576
    assert parts["their block constants"] == 1152 / 64 + 1152 / 64 / 256 * 4
    assert parts["embeddings and head"] == 512
    assert memory.base_parts(SMALL, Workload(bits=16))["projection weights"] == 2304
    assert memory.base_parts(SMALL, Workload(bits=16, kind="cpu"))["projection weights"] == 4608


def test_cache_by_hand() -> None:
    # 5 rows of 100 tokens in blocks of 64: 128; keys and values of 2 layers, 4 wide, in bf16, and one of the four twice
    workload = Workload(prompt_tokens=60, completion_tokens=40)
    assert memory.cache_bytes(SMALL, workload, 5) == 5 * 128 * 4 * 2 * (4 + 1)


def test_linear_attention_by_hand() -> None:
    """Of three layers in four; the fourth has queries with a gate."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 4, "full_attention_interval": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "attn_output_gate": True}
    linear = {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_conv_kernel_dim": 4}
    dims = {"linear_key_head_dim": 2, "linear_value_head_dim": 2, "vocab_size": 32, "max_position_embeddings": 64}
    shape = shape_of({"model_type": "qwen3_5_text"} | sizes | heads | linear | dims)
    # q, k and v together 8x8, z 8x4, two numbers a value head 8x2, out 4x8; beside them the MLP's 384
    assert shape.n_projection_weights == 3 * (64 + 32 + 2 * 16 + 32 + 384) + (8 * 16 + 2 * 32 + 64 + 384)
    assert shape.n_adapter_weights(2) == 2 * (3 * (16 + 12 + 2 * 10 + 12 + 72) + (24 + 12 + 12 + 16 + 72))
    # keys and values of one layer; of each other layer 4 x 2 numbers and the last 4 of 8 inputs of the convolution
    workload = Workload(prompt_tokens=60, completion_tokens=40)
    assert memory.cache_bytes(shape, workload, 5) == 5 * 128 * 4 * 2 * (2 + 1) + 5 * 3 * (4 * 2 + 4 * 8) * 4
    plan = plan_for(find_shape("qwen3.5-4b"), Workload(), 24 * GIB, "auto")
    assert (plan.workload.sampler, plan.fits) == ("native", True)  # our decoder does not know it


def test_recorded_steps_by_hand() -> None:
    # 20 rows in eights: 3 recordings; 512 + 256 positions in steps of 256: 3; of 2 layers with 24 / 64 MiB each
    workload = Workload(prompt_tokens=512, completion_tokens=256)
    # and the logits of 20 rows, four times in fp32, beside those in the recordings' pool
    choosing = 20 * SMALL.vocabulary * 4 * 4
    assert memory.recorded_bytes(SMALL, workload, 20) == 6 * 2 * 24 / 64 * 2**20 + choosing
    for kind, sampler, there in (("gpu", "own", True), ("gpu", "native", False), ("cpu", "own", False)):
        sampling = phases(SMALL, replace(workload, kind=kind, sampler=sampler), 512, 20)[1]  # type: ignore[arg-type]
        assert ("recorded steps" in sampling.parts) == there


def test_a_chunk_of_logits_is_that_of_the_code() -> None:  # the other constants the code takes from the plan
    assert signature(token_logprobs).parameters["chunk_tokens"].default == memory.LOGIT_CHUNK_TOKENS


def measured_against_plan(
    config: dict[str, Any], n_rows: int, prompt: int, completion: int, keeps: Keeps, kind: memory.Kind = "gpu"
) -> Any:
    """Update and scoring of equally long rows in one micro-batch: measured, planned, and the model's own bytes."""
    tokens, dtype = n_rows * (prompt + completion), torch.bfloat16 if kind == "gpu" else torch.float32
    lengths = [(prompt, completion)] * n_rows
    got: Measured = measure_update(config, lengths, micro_batch_tokens=tokens, dtype=dtype, keeps=keeps)
    workload = Workload(kind=kind, prompt_tokens=prompt, completion_tokens=completion)
    planned = phases(shape_of(config), workload, tokens, 1, keeps)
    return got, {phase.name: phase.peak - memory.CONTEXT[kind] for phase in planned}, workload


@pytest.mark.parametrize(
    ("alias", "changes", "n_rows", "keeps"),
    [
        ("qwen2.5-3b", {"num_hidden_layers": 8}, 6, "inputs"),
        ("qwen2.5-3b", {"num_hidden_layers": 4}, 3, "products"),
        ("qwen2.5-3b", {"num_hidden_layers": 4}, 1, "activations"),
        *(
            pytest.param(alias, {}, 6, keeps, marks=pytest.mark.slow)
            for alias in ("qwen2.5-7b", "qwen3-0.6b", "llama-3.2-1b")
            for keeps in ("inputs", "products", "activations")
        ),
    ],
)
def test_the_plan_is_the_update_step_s_own_peak_within_10_percent(
    alias: str, changes: dict[str, int], n_rows: int, keeps: Keeps
) -> None:
    config = CONFIGS[alias] | changes
    got, planned, workload = measured_against_plan(config, n_rows, 256, 768, keeps)
    shape = shape_of(config)
    adapter = shape.n_adapter_weights(16) * 4
    assert total(memory.base_parts(shape, workload)) + adapter == pytest.approx(got.static, rel=0.01)
    assert planned["update"] == pytest.approx(got.update, rel=0.1)
    assert planned["scoring"] == pytest.approx(got.scoring, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("keeps", ["inputs", "products"])
@pytest.mark.parametrize("alias", [alias for alias in CONFIGS if alias != "tiny"])
def test_the_plan_of_every_preset_is_within_10_percent(alias: str, keeps: Keeps) -> None:
    """Of four layers at full width, each kind of layer among them."""
    config, full = CONFIGS[alias], "full_attention"
    kinds = {"gemma4_text": ["sliding_attention", full] * 2}.get(config["model_type"])
    if kinds is None and "layer_types" in config:
        kinds = [*config["layer_types"][:3], full]
    changes = {"num_hidden_layers": 4, "num_kv_shared_layers": 2} | ({"layer_types": kinds} if kinds else {})
    roped = {"no_rope_layers": config["no_rope_layers"][:4]} if "no_rope_layers" in config else {}
    got, planned, _ = measured_against_plan(config | changes | roped, 4, 256, 512, keeps)
    assert planned["update"] == pytest.approx(got.update, rel=0.1)
    assert planned["scoring"] == pytest.approx(got.scoring, rel=0.2)


@pytest.mark.parametrize("keeps", get_args(Keeps))
def test_on_a_cpu_the_plan_counts_an_update_in_fp32(keeps: Keeps) -> None:
    config = CONFIGS["qwen3-0.6b"] | {"num_hidden_layers": 4}
    got, planned, _ = measured_against_plan(config, 6, 64, 192, keeps, "cpu")
    assert planned["update"] == pytest.approx(got.update, rel=0.03)


def test_the_plan_knows_gemma_4() -> None:
    """Two of four layers take the keys of earlier ones, two have wider heads, and each gets inputs of its own."""
    kinds = ["sliding_attention", "full_attention"] * 2
    heads = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512}
    shared = {"num_hidden_layers": 4, "layer_types": kinds, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    sizes = {"hidden_size": 1536, "intermediate_size": 6144, "vocab_size": 262144, "max_position_embeddings": 131072}
    config = {"model_type": "gemma4_text"} | sizes | heads | shared
    got, planned, workload = measured_against_plan(config, 6, 256, 768, "inputs")
    shape = shape_of(config)
    adapter = shape.n_adapter_weights(16) * 4
    assert total(memory.base_parts(shape, workload)) + adapter == pytest.approx(got.static, rel=0.001)
    assert planned["update"] == pytest.approx(got.update, rel=0.1)
    assert planned["scoring"] == pytest.approx(got.scoring, rel=0.1)
    # keys and values of a layer of 256 and one of 512, and the wider of them twice
    short = Workload(prompt_tokens=60, completion_tokens=40)
    assert memory.cache_bytes(shape, short, 5) == 5 * 128 * (2 * (256 + 512) + 512) * 2


def test_each_layer_of_a_hybrid_keeps_products_of_its_own() -> None:
    """By hand, of Qwen3.5-4B: layers of linear attention, and of gated queries. The last product is not kept."""
    config = CONFIGS["qwen3.5-4b"]
    assert (config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]) == (2560, 9216, 16)
    shape, workload = shape_of(config), Workload(kind="cpu", sampler="native")
    update = next(phase for phase in phases(shape, workload, workload.width, 1, "products") if phase.name == "update")
    full = 2 * 16 * 256 + 2 * 4 * 256 + 2560 + 2 * 9216
    linear = (2 * 16 * 128 + 32 * 128) + 32 * 128 + 2 * 32 + 2560 + 2 * 9216
    assert update.parts["kept products"] == workload.width * 4 * (8 * full + 24 * linear)


def small_vocabulary(**changes: int) -> dict[str, Any]:
    return CONFIGS["qwen2.5-0.5b"] | {"num_hidden_layers": 2} | changes


def test_the_peak_does_not_grow_with_the_number_of_completions() -> None:
    config = small_vocabulary(vocab_size=2_000)
    peaks = [measure_update(config, [(64, 192)] * n, micro_batch_tokens=1024).update for n in (4, 8)]
    # what is left of each completion: its log-probabilities and indices, some bytes a token
    assert peaks[1] - peaks[0] < 4 * 256 * 100
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)


@pytest.mark.parametrize("turned", [True, False])
def test_the_cache_of_the_sampler_is_planned_to_the_byte(turned: bool) -> None:
    shape = find_shape("qwen2.5-0.5b")
    workload = Workload(prompt_tokens=100, completion_tokens=150)
    tracker = MemoryTracker()
    with simulation(), tracker:
        weights: Any = SimpleNamespace(
            embeddings_VH=torch.zeros(1, dtype=torch.bfloat16),
            layers=[None] * shape.layers,
            n_keys=shape.kv_heads,
            head_dim=shape.head_dim,
        )
        cache = SlotCache(weights, 16, 128, turned=turned)
        while cache.n_positions < 250:
            cache.grow(cache.n_positions + memory.CACHE_BLOCK)
    # the last buffer's old copy is a block shorter than a whole one
    shorter = 16 * memory.CACHE_BLOCK * shape.kv_width * 2
    assert tracker.peak == pytest.approx(memory.cache_bytes(shape, workload, 16) - shorter, rel=0.001)


def peak_of_an_update(*, from_adapter: bool) -> int:
    """Of two short rows and a large adapter of the built-in model."""
    config = resolve(
        TrainConfig(model="tiny", policy=PolicyConfig(lora_rank=512, lora_alpha=512), loss=LossConfig(kl_coef=0.04))
    )
    rows = [
        Row((5, 6, 7), (8,), advantage=1.0, weight=0.1, kl_weight=0.1),
        Row((5, 6, 7), (9,), sft_weight=0.1),
    ]
    policy = HfPolicy("tiny", config.policy, seed=0)
    optimizer, limits = make_optimizer(policy, config), Limits(1000, 8)
    learn(policy, optimizer, rows, config, step=0, last_good="", limits=limits)
    if from_adapter:
        policy.keep_reference()
    tracker = MemoryTracker()
    tracker.count([*policy._peft.parameters(), *policy._peft.buffers(), *(policy._kept or {}).values()])
    tracker.count([value for state in optimizer.state.values() for value in state.values()])
    with tracker:
        learn(policy, optimizer, rows, config, step=1, last_good="", limits=limits)
    return tracker.peak


def test_a_reference_is_planned() -> None:
    """It is one more copy of the adapter at the worst moment."""
    more = peak_of_an_update(from_adapter=True) - peak_of_an_update(from_adapter=False)
    shape, workload = find_shape("tiny"), Workload(kind="cpu", lora_rank=512)
    then, now = (
        {phase.name: phase.peak for phase in phases(shape, each, 1000, 8)}
        for each in (workload, replace(workload, from_adapter=True))
    )
    assert now["update"] - then["update"] == pytest.approx(more, rel=0.02)
    assert all(now[name] >= then[name] for name in then)


def test_the_plan_chooses_what_fits_and_no_more() -> None:
    shape, workload = find_shape("qwen2.5-3b"), Workload(sampler="native", recomputes=True)
    roomy, tight = (make_plan(shape, workload, gib * GIB) for gib in (24, 8))
    assert (roomy.micro_batch_tokens, roomy.sampling_rows) == (16_384, 256)
    assert roomy.fits
    assert tight.fits
    assert tight.micro_batch_tokens < 16_384
    assert tight.sampling_rows < 256
    for tokens, rows in ((tight.micro_batch_tokens + 256, None), (None, tight.sampling_rows + 8)):
        more = make_plan(shape, workload, 8 * GIB, micro_batch_tokens=tokens, sampling_rows=rows)
        assert not more.fits or more.micro_batch_tokens < tight.micro_batch_tokens
    assert not make_plan(shape, workload, 3 * GIB).fits


def test_the_plan_keeps_what_makes_the_update_fastest() -> None:
    """All where it fits into micro-batches that are not too small, else the products, else nothing beside inputs."""
    shape = find_shape("qwen2.5-7b")

    def kept(gib: float, **changes: Any) -> tuple[str, int]:
        plan = make_plan(shape, replace(Workload(sampler="native"), **changes), gib * GIB)
        assert plan.fits
        return plan.keeps, plan.micro_batch_tokens

    assert [kept(gib) for gib in (24, 12, 8)] == [("activations", 2304), ("products", 1536), ("inputs", 1792)]
    # forward passes and 300 tokens a reading: products fit up to 5,376 tokens, and would take 2.15 + 600 / 5,376
    assert max(p.peak for p in phases(shape, Workload(sampler="native"), 5_376, 1, "products")) <= 0.95 * 24 * GIB
    assert max(p.peak for p in phases(shape, Workload(sampler="native"), 5_632, 1, "products")) > 0.95 * 24 * GIB
    assert 2.15 + 600 / 5_376 > 2 + 600 / 2_304
    assert kept(24, recomputes=True) == ("inputs", 16_384)
    assert kept(48, kind="cpu", bits=4) == ("activations", 2304)
    assert kept(24, completion_tokens=6000)[0] == "inputs"  # not a single row would fit
    other = replace(shape, family="gemma3")
    assert make_plan(other, Workload(sampler="native"), 24 * GIB).keeps == "inputs"
    assert make_plan(other, Workload(kind="cpu", sampler="native"), 24 * GIB).keeps == "products"
    asked = make_plan(shape, Workload(sampler="native"), 24 * GIB, micro_batch_tokens=4096)
    assert (asked.keeps, asked.micro_batch_tokens) == ("products", 4096)


def test_the_sampler_does_not_depend_on_the_group() -> None:
    """A group need not be decoded at once: 40 rows of a long completion are enough for any."""
    shape, workload = find_shape("qwen2.5-3b"), Workload(group_size=256, completion_tokens=8192)
    plan = plan_for(shape, workload, 24 * GIB, "auto")
    assert (plan.workload.sampler, plan.sampling_rows, plan.fits) == ("own", 40, True)
    few = plan_for(shape, workload, 10.5 * GIB, "own")
    assert few.fits
    assert few.sampling_rows < 8
    assert plan_for(shape, workload, 10.5 * GIB, "auto").workload.sampler == "native"
    asked = plan_for(shape, workload, 10.5 * GIB, "auto", sampling_rows=few.sampling_rows)
    assert (asked.workload.sampler, asked.fits) == ("own", True)


def test_auto_samples_with_a_dense_copy_where_rows_fit_beside_it() -> None:
    shape, workload = find_shape("qwen2.5-7b"), Workload()
    roomy, tight = (plan_for(shape, workload, gib * GIB, "auto") for gib in (24, 12))
    assert (roomy.workload.sampler, tight.workload.sampler) == ("own", "native")
    assert roomy.fits
    assert tight.fits
    dense = next(p.parts["merged dense weights"] for p in roomy.phases if p.name == "sampling")
    assert dense == shape.n_projection_weights * 2  # bf16
    assert not plan_for(shape, workload, 12 * GIB, "own").fits  # asked for, it is planned all the same
    # nothing fits: our own says what it needs
    assert plan_for(shape, workload, 3 * GIB, "auto").workload.sampler == "own"


def test_the_longest_completion_is_the_last_that_fits() -> None:
    shape, workload = find_shape("qwen2.5-7b"), Workload(sampler="native")
    longest = longest_completion(shape, workload, 12 * GIB)
    assert longest % 64 == 0

    def fits(tokens: int) -> bool:
        longer = replace(workload, completion_tokens=tokens)
        return make_plan(shape, longer, 12 * GIB, micro_batch_tokens=1, sampling_rows=8).fits

    assert fits(longest)
    assert not fits(longest + 64)
    assert longest_completion(shape, workload, 4 * GIB) == 0
    assert longest_completion(find_shape("smollm2-135m"), workload, 80 * GIB) == 8192 - 512


@pytest.mark.parametrize(("truth", "found"), [(0, 1), (5, 4), (8, 8), (41, 40), (300, 96)])
def test_the_search_for_the_largest(truth: int, found: int) -> None:
    assert largest(lambda value: value <= truth, step=8, most=96, least=1) == found
