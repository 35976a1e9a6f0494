"""What runs on a GPU, run on fake CUDA tensors: no value is looked at, and nothing is left on the CPU."""

import dataclasses
import json
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cuda import CUDA, CudaPolicy, LeftOnTheCpu, OnlyCuda, fake_cuda
from torch._subclasses.fake_tensor import DataDependentOutputException

from expo_lite.memory.plan import Workload, cache_bytes
from expo_lite.memory.shapes import ALIASES_FILE, shape_of
from expo_lite.policy import scoring, slots
from expo_lite.policy.batching import MicroBatch, Row, collate
from expo_lite.policy.choosing import choose
from expo_lite.policy.decoder import Decoder
from expo_lite.policy.dense import _Projection
from expo_lite.policy.merged import merge
from expo_lite.policy.slots import Slots, Waiting
from expo_lite.records import SamplingParams

CONFIGS: dict[str, dict[str, Any]] = json.loads(ALIASES_FILE.read_text())
FAMILIES = ("llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b")


def policy_of(name: str) -> CudaPolicy:
    return CudaPolicy(CONFIGS[name] | {"num_hidden_layers": 2}, dtype=torch.bfloat16)


def full_slots(policy: CudaPolicy, params: SamplingParams) -> Slots:
    """Prompts of two lengths in sixteen slots, and more waiting."""
    decoder = Decoder(merge(policy._model))
    prompts = [(1,) * 20, (2,) * 13, (3,) * 30]
    queue = deque(Waiting(i, i // 8) for i in range(24))
    state = Slots(decoder, prompts, torch.zeros(24, params.max_completion_tokens), params, n_slots=16, eos_ids=(7, 9))
    state.fill(queue)
    assert (state.n_rows, len(queue)) == (16, 8)
    return state


@pytest.mark.parametrize("params", [SamplingParams(0.7, 50), SamplingParams(1.0, 50, 0.9), SamplingParams(0.0, 50)])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_decoding_step_can_be_recorded(name: str, params: SamplingParams) -> None:
    policy = policy_of(name)
    with fake_cuda():
        policy.materialise()
        state = full_slots(policy, params)
        assert state._cache.keys[0].device.type == state._tokens_SL.device.type == "cuda"
        assert state._cache.keys[0].dtype == torch.bfloat16
        before = [id(buffer) for buffer in (*state._cache.keys, state._last_S, state._count_S, state._running_S)]
        with OnlyCuda():  # type: ignore[no-untyped-call]
            for n_rows, width in ((16, 80), (8, 64)):
                state.advance(n_rows, width)
        # a recording reads and writes the same buffers each time
        after = [id(buffer) for buffer in (*state._cache.keys, state._last_S, state._count_S, state._running_S)]
        assert before == after


@pytest.mark.parametrize("n_slots", [1, 3, 8, 12])
def test_as_many_rows_as_were_asked_for_are_held_and_decoded(n_slots: int) -> None:
    """What the memory plan counts, to the byte, but for the buffer that is copied when a cache grows."""
    policy = policy_of("qwen2.5-0.5b")
    shape = shape_of(CONFIGS["qwen2.5-0.5b"] | {"num_hidden_layers": 2})
    with fake_cuda():
        policy.materialise()
        state = Slots(
            Decoder(merge(policy._model)), [(1,) * 20], torch.zeros(24, 50), SamplingParams(1.0, 50), n_slots=n_slots,
            eos_ids=(7,),
        )  # fmt: skip
        held = sum(buffer.nbytes for buffer in (*state._cache.keys, *state._cache.values))
        planned = cache_bytes(shape, Workload(prompt_tokens=20, completion_tokens=50), n_slots)
        assert held == planned * 2 * shape.layers / (2 * shape.layers + 1)
        state.fill(deque(Waiting(i, 0) for i in range(24)))
        assert state.n_rows == n_slots
        widths: list[tuple[int, int]] = []
        state.advance = lambda n_rows, width: widths.append((n_rows, width))  # type: ignore[method-assign]
        state.step()
        assert {n_rows for n_rows, _ in widths} == {n_slots}


def looks_at_a_value(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams) -> Any:
    tokens_R, logprobs_R = choose(logits_RV, uniforms_R, params)
    return tokens_R.clamp(max=int(tokens_R.max())), logprobs_R


def selects_by_a_mask(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams) -> Any:
    return choose(logits_RV[uniforms_R > 0.5], uniforms_R, params)


def counts_on_the_cpu(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams) -> Any:
    return choose(logits_RV[torch.arange(len(logits_RV))], uniforms_R, params)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (looks_at_a_value, DataDependentOutputException),
        (selects_by_a_mask, RuntimeError),
        (counts_on_the_cpu, LeftOnTheCpu),
    ],
)
def test_a_step_that_could_not_be_recorded_is_found(broken: Any, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("qwen2.5-0.5b")
    with fake_cuda():
        policy.materialise()
        state = full_slots(policy, SamplingParams(1.0, 50))
        monkeypatch.setattr(slots, "choose", broken)
        with pytest.raises(error), OnlyCuda():  # type: ignore[no-untyped-call]
            state.advance(16, 80)


def batch() -> MicroBatch:
    rows = [Row((i // 4,) * (10 + i // 4), (1,) * (20 + i), advantage=1.0, weight=1.0) for i in range(8)]
    return collate(rows, list(range(8)), pad_id=0)


def on_the_gpu(mode: Any, made: MicroBatch) -> MicroBatch:
    tensors = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    fakes: dict[str, Any] = {
        name: mode.from_tensor(t).to(CUDA) for name, t in tensors.items() if isinstance(t, torch.Tensor)
    }
    return dataclasses.replace(made, **fakes)


@pytest.mark.parametrize("name", FAMILIES)
def test_scoring_stays_on_the_gpu(name: str) -> None:
    """Packed, as our scorer takes it, and padded, as Unsloth's models are scored."""
    policy, made = policy_of(name), batch()
    n_targets = sum(range(20, 28))
    with fake_cuda() as mode:
        policy.materialise()
        sent = on_the_gpu(mode, made)
        assert scoring.is_packable(policy._model)
        policy._peft.train()
        with OnlyCuda():  # type: ignore[no-untyped-call]
            logprobs_N = policy.logprobs(sent, temperature=0.7)
            padded_NH = scoring.padded_hidden(policy._model, sent)
        assert (logprobs_N.shape, logprobs_N.device.type, logprobs_N.dtype) == ((n_targets,), "cuda", torch.float32)
        assert logprobs_N.requires_grad
        assert (padded_NH.shape[0], padded_NH.device.type) == (n_targets, "cuda")


def test_the_backward_pass_of_a_projection_stays_on_the_gpu() -> None:
    """By hand: torch's engine does not start without a GPU."""
    policy = policy_of("qwen2.5-0.5b")
    with fake_cuda():
        policy.materialise()
        layer = policy._model.get_decoder().layers[0].mlp.down_proj
        a_rI, b_Or = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        x_NI = torch.empty(30, layer.in_features, dtype=torch.bfloat16, device=CUDA)
        dy_NO = torch.empty(30, layer.out_features, dtype=torch.bfloat16, device=CUDA)
        saved = SimpleNamespace(
            saved_tensors=(x_NI, a_rI, b_Or), weight=layer.base_layer.weight, scale=2.0, needs_input_grad=(True,)
        )
        with OnlyCuda():  # type: ignore[no-untyped-call]
            gradients = _Projection.backward(saved, dy_NO)[:3]
        for gradient, of in zip(gradients, (x_NI, a_rI, b_Or), strict=True):
            assert (gradient.shape, gradient.dtype, gradient.device) == (of.shape, of.dtype, of.device)


def test_a_mask_that_is_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, made = policy_of("qwen2.5-0.5b"), batch()
    empty = torch.empty

    def on_the_cpu(*shape: Any, **options: Any) -> torch.Tensor:
        return empty(*shape, **(options | {"device": "cpu"} if shape == (1, 1, 0, 0) else options))

    with fake_cuda() as mode:
        policy.materialise()
        sent = on_the_gpu(mode, made)
        monkeypatch.setattr(torch, "empty", on_the_cpu)
        with pytest.raises(LeftOnTheCpu, match=r"shape \(1, 1, 0, 0\) on the cpu"), OnlyCuda():  # type: ignore[no-untyped-call]
            policy.logprobs(sent, temperature=1.0)
