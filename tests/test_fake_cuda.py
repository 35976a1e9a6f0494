"""The code for a GPU, run on fake CUDA tensors: no value is looked at, and nothing is left on the CPU.

Fake tensors have a device and a shape and no values. Whatever looks at a value raises, as it would have to wait for the
GPU, and could not be recorded as a CUDA graph. So does every operator that gets or makes a tensor on the CPU; what is
made from Python's numbers may be sent to the device.
"""

import dataclasses
import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from simulated_update import SimulatedPolicy, StandIn4bit, simulation
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from expo_lite.memory.shapes import ALIASES_FILE
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
CUDA = torch.device("cuda")
SENDS = {getattr(torch.ops.aten, name).default for name in ("_to_copy", "lift_fresh", "detach")} | {
    torch.ops.prim.device.default
}
"""The functions that make a tensor from Python's numbers, and send it to the device."""


class LeftOnTheCpu(Exception):
    """An operator that the CPU has a part in."""


class OnlyCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where an operator gets or makes a tensor on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in SENDS:
            for tensor in tree_iter((args, kwargs, out)):
                # one without elements has no value to wait for (checkpointing in torch 2.11 makes it)
                if isinstance(tensor, torch.Tensor) and tensor.device.type != "cuda" and tensor.numel():
                    raise LeftOnTheCpu(f"{func} with a tensor of shape {tuple(tensor.shape)} on the {tensor.device}")
        return out


class CudaPolicy(SimulatedPolicy):
    """A model in four bits on the fake GPU."""

    def materialise(self) -> None:
        """Give every tensor a fake storage on the GPU; tied ones stay tied."""
        with torch.device(CUDA):
            super().materialise()
        self.device = CUDA


def _dequantised(layer: StandIn4bit) -> torch.Tensor:
    return torch.empty(layer.out_features, layer.in_features, dtype=layer.compute_dtype, device=CUDA)


def _any_dequantised(weight: Any) -> torch.Tensor:
    dense: torch.Tensor = weight.dequantised() if hasattr(weight, "dequantised") else weight.detach()
    return dense


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Fake tensors on a GPU that is not there."""
    with (
        patch.object(StandIn4bit, "dequantised", _dequantised),
        patch("expo_lite.policy.merged.dequantised", _any_dequantised),
        simulation() as mode,
    ):
        yield mode


def policy_of(name: str) -> CudaPolicy:
    return CudaPolicy(CONFIGS[name] | {"num_hidden_layers": 2}, dtype=torch.bfloat16)


def full_slots(policy: CudaPolicy, params: SamplingParams) -> Slots:
    """Prompts of two lengths in sixteen slots, and more waiting."""
    decoder = Decoder(merge(policy.base_model))
    prompts = [(1,) * 20, (2,) * 13, (3,) * 30]
    queue = deque(Waiting(i, i // 8) for i in range(24))
    state = Slots(decoder, prompts, torch.zeros(24, params.max_completion_tokens), params, n_slots=16, eos_ids=(7, 9))
    state.fill(queue)
    assert (state.n_rows, len(queue)) == (16, 8)
    return state


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("llama-3.2-1b", SamplingParams(0.7, 50)),
        ("qwen2.5-0.5b", SamplingParams(1.0, 50, 0.9)),
        ("qwen3-0.6b", SamplingParams(0.0, 50)),
    ],
)
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


def looks_at_a_value(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams) -> Any:
    tokens_R, logprobs_R = choose(logits_RV, uniforms_R, params)
    return tokens_R.clamp(max=int(tokens_R.max())), logprobs_R


def counts_on_the_cpu(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams) -> Any:
    return choose(logits_RV[torch.arange(len(logits_RV))], uniforms_R, params)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (looks_at_a_value, DataDependentOutputException),
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
        assert scoring.is_packed(policy.base_model)
        policy._peft.train()
        with OnlyCuda():  # type: ignore[no-untyped-call]
            logprobs_N = policy.logprobs(sent, temperature=0.7)
            padded_NH = scoring.padded_hidden(policy.base_model, sent)
        assert (logprobs_N.shape, logprobs_N.device.type, logprobs_N.dtype) == ((n_targets,), "cuda", torch.float32)
        assert logprobs_N.requires_grad
        assert (padded_NH.shape[0], padded_NH.device.type) == (n_targets, "cuda")


def test_the_backward_pass_of_a_projection_stays_on_the_gpu() -> None:
    """By hand: torch's engine does not start without a GPU."""
    policy = policy_of("qwen2.5-0.5b")
    with fake_cuda():
        policy.materialise()
        layer = policy.base_model.get_decoder().layers[0].mlp.down_proj
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
