"""The CPU's projections against peft's and bitsandbytes' own, sampling and training."""

import contextlib
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from shaken import shaken

from expo_lite.policy import dense, hf
from expo_lite.policy.batching import MicroBatch, Row, collate
from expo_lite.policy.dense import dense_weights
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.products import linear, packed_linear
from expo_lite.settings.groups import PolicyConfig


@pytest.fixture(scope="module", params=[4, 16])
def policy(request: pytest.FixtureRequest) -> HfPolicy:
    policy = HfPolicy("tiny", PolicyConfig(bits=request.param), seed=0)
    shaken(policy, 0.05)
    return policy


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


def test_merged_weights_give_the_same_hidden_states(policy: HfPolicy) -> None:
    policy._peft.eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        with plain(policy):
            expected = policy._model.get_decoder()(input_ids=ids).last_hidden_state
        with dense_weights(policy._model):
            merged = policy._model.get_decoder()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert not any("forward" in vars(module) for module in policy._model.modules() if isinstance(module, LoraLayer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 5, 7), (33, 64, 96), (3, 1, 16, 24)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_torchs(shape: tuple[int, ...], biased: bool, dtype: torch.dtype) -> None:
    *rows, n_in, n_out = shape
    x, weight = torch.randn(*rows, n_in).to(dtype), torch.randn(n_out, n_in).to(dtype)
    bias = torch.randn(n_out).to(dtype) if biased else None
    expected = torch.nn.functional.linear(x, weight, bias)
    across = weight.t().contiguous().t()  # as the backward pass has it
    for result in (linear(x, weight, bias), linear(x, across, bias), packed_linear(weight, bias)(x)):
        assert result.dtype == dtype
        torch.testing.assert_close(result, expected)
