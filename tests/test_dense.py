"""The projections in training against peft's and bitsandbytes' own."""

import contextlib
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from shaken import shaken

from expo_lite.policy import dense, hf, load
from expo_lite.policy.batching import MicroBatch, Row, collate
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.products import linear
from expo_lite.settings.groups import PolicyConfig


def policy_of(bits: Any) -> HfPolicy:
    return shaken(HfPolicy("tiny", PolicyConfig(bits=bits), seed=0), 0.05)


@pytest.fixture(scope="module", params=[4, 16])
def policy(request: pytest.FixtureRequest) -> HfPolicy:
    return policy_of(request.param)


def batch() -> MicroBatch:
    rows = [Row((5, 6, 7), tuple(range(10, 10 + n))) for n in (1, 8, 20)] + [Row((9, 9), (1, 2, 3))]
    return collate(rows, list(range(len(rows))), pad_id=0)


def scored(policy: HfPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    for parameter in policy.parameters().values():
        parameter.grad = None
    logprobs_N = policy.logprobs(batch(), temperature=1.0)
    (logprobs_N * torch.linspace(-1, 1, len(logprobs_N))).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in policy.parameters().values() if p.grad is not None]
    assert len(gradients) == len(policy.parameters())
    return logprobs_N.detach(), torch.cat(gradients).double()


@contextlib.contextmanager
def plain(policy: HfPolicy) -> Any:
    """While this is open the projections are peft's and bitsandbytes' own."""
    layers: list[Any] = [module for module in policy._model.modules() if isinstance(module, LoraLayer)]
    lean = [type(layer) for layer in layers]
    assert all(kind.__bases__[0].__name__ == kind.__name__ for kind in lean)
    for layer in layers:
        layer.__class__ = type(layer).__bases__[0]
    try:
        yield
    finally:
        for layer, kind in zip(layers, lean, strict=True):
            layer.__class__ = kind


def test_training_gives_the_plain_values_and_gradient(policy: HfPolicy) -> None:
    ours, our_gradient = scored(policy)
    with plain(policy):
        theirs, their_gradient = scored(policy)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert their_gradient.norm() > 0
    assert (our_gradient - their_gradient).norm() / their_gradient.norm() < 1e-5


@pytest.mark.parametrize("bits", [4, 16])
def test_in_bf16_as_on_a_gpu_a_projection_differs_by_rounding(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "compute_type", lambda device: torch.bfloat16)
    policy = policy_of(bits)
    layer = policy._model.get_decoder().layers[1].mlp.down_proj
    x_TI = torch.randn(40, layer.in_features, dtype=torch.bfloat16)

    def results() -> list[torch.Tensor]:
        inputs = [x_TI.clone().requires_grad_(), *(p for p in layer.parameters() if p.requires_grad)]
        y_TO = layer(inputs[0])
        gradients = torch.autograd.grad(y_TO, inputs, torch.linspace(-1, 1, y_TO.numel()).view_as(y_TO).to(y_TO.dtype))
        return [y_TO.detach(), *gradients]

    ours = results()
    with plain(policy):
        theirs = results()
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert (mine - other).norm() / other.norm() < 2**-8


def test_kept_products_change_no_bit(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, kept_gradient = scored(policy)
    monkeypatch.setattr(hf, "KEPT_PRODUCTS_BYTES", 0)
    recomputed, recomputed_gradient = scored(policy)
    assert torch.equal(kept, recomputed)
    assert torch.equal(kept_gradient, recomputed_gradient)


def test_products_are_not_computed_a_second_time(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(1)
        return linear(*arguments, **keywords)

    monkeypatch.setattr(dense, "linear", counted)
    scored(policy)
    once = len(calls)
    monkeypatch.setattr(hf, "KEPT_PRODUCTS_BYTES", 0)
    scored(policy)
    n_projections = 7 * policy._model.config.num_hidden_layers
    # the last layer's down projection has nothing behind it that needs its product again
    assert len(calls) - 2 * once >= n_projections - policy._model.config.num_hidden_layers


def test_the_reference_is_the_base_model(policy: HfPolicy) -> None:
    with policy.reference():
        ours = policy.logprobs(batch(), temperature=1.0).detach()
        with plain(policy):
            theirs = policy.logprobs(batch(), temperature=1.0).detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, scored(policy)[0])
