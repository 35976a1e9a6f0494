"""The projections in training against peft's and bitsandbytes' own; products by oneDNN against torch's."""

import contextlib
from typing import Any, get_args

import pytest
import torch
from peft.tuners.lora import LoraLayer
from shaken import shaken
from simulated_update import MemoryTracker

from expo_lite.memory.plan import Keeps
from expo_lite.policy import attention, dense, load, products
from expo_lite.policy.attention import packed_attention as attended
from expo_lite.policy.batching import MicroBatch, Row, collate
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.products import PACKED_FROM, Product, has_onednn, linear
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
    layers: list[Any] = [module for module in policy.base_model.modules() if isinstance(module, LoraLayer)]
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
    layer = policy.base_model.get_decoder().layers[1].mlp.down_proj
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


def test_what_is_kept_changes_no_bit_and_is_not_computed_a_second_time(
    policy: HfPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(*arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(policy.keeps)
        return linear(*arguments, **keywords)

    monkeypatch.setattr(dense, "linear", counted)
    monkeypatch.setattr(attention, "packed_attention", lambda *a, **k: calls.append("attention") or attended(*a, **k))  # type: ignore[func-returns-value]
    n_layers, n_attended, found = policy.base_model.config.num_hidden_layers, {}, {}
    for keeps in get_args(Keeps):
        monkeypatch.setattr(policy, "keeps", keeps)
        before = calls.count("attention")
        found[keeps] = scored(policy)
        n_attended[keeps] = calls.count("attention") - before
    for logprobs, gradient in found.values():
        assert torch.equal(logprobs, found["inputs"][0])
        assert torch.equal(gradient, found["inputs"][1])
    assert n_attended == {"activations": n_layers, "products": 2 * n_layers, "inputs": 2 * n_layers}
    # forward and backward pass
    assert calls.count("activations") == calls.count("products") == 2 * 7 * n_layers
    # again, but for each layer's down projection, whose product nothing of the layer itself needs
    assert calls.count("inputs") - calls.count("products") == 6 * n_layers


def test_nothing_is_kept_for_a_backward_pass_that_does_not_come(
    policy: HfPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a reference."""
    monkeypatch.setattr(attention, "causal_lower_right", lambda *_: None)  # which the tracker cannot count
    peaks = {}
    for keeps in get_args(Keeps):
        monkeypatch.setattr(policy, "keeps", keeps)
        with MemoryTracker() as tracker:
            policy.logprobs(batch(), temperature=1.0, gradient=False)
        peaks[keeps] = tracker.peak
    assert len(set(peaks.values())) == 1


def test_a_torch_without_onednn_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    assert not has_onednn(torch.device("cpu"), torch.float32)
    x, weight = torch.randn(3, 5), torch.randn(7, 5)
    assert not Product(torch.randn(512, PACKED_FROM // 512)).is_packed
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.parametrize("packed_from", [0, PACKED_FROM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 5, 7), (33, 64, 96)])
def test_products_are_torchs(
    shape: tuple[int, int, int], dtype: torch.dtype, packed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(products, "PACKED_FROM", packed_from)
    n, n_in, n_out = shape
    x, weight = torch.randn(n, n_in).to(dtype), torch.randn(n_out, n_in).to(dtype)
    bias = torch.randn(n_out).to(dtype) if n > 1 else None
    residual = torch.randn(n, n_out).to(dtype)
    expected = torch.nn.functional.linear(x, weight, bias)
    ours = Product(weight, bias)
    assert ours.is_packed == (packed_from == 0 and has_onednn(torch.device("cpu"), dtype))
    across = weight.t().contiguous().t()  # as the backward pass has it
    for result in (linear(x, weight, bias), linear(x, across, bias), ours(x)):
        assert result.dtype == dtype
        torch.testing.assert_close(result, expected)
    before = residual.clone()
    # bf16 rounds the product before it is added, or not: it is up to 64, where two neighbours are 0.25 apart
    assert expected.abs().max() < 64
    tolerance = 0.25 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(ours.added(x, residual), expected + residual, rtol=0, atol=tolerance)
    assert (expected + residual - expected).abs().max() > 4 * tolerance
    assert torch.equal(residual, before)


def test_a_large_weight_is_packed_into_a_copy_unless_that_is_too_large() -> None:
    weight = torch.randn(512, PACKED_FROM // 512)
    x = torch.randn(4, weight.shape[1])
    ours = Product(weight)
    expected = ours(x)
    assert ours.is_packed == has_onednn(torch.device("cpu"), torch.float32)
    if ours.is_packed:
        weight.zero_()
    assert torch.equal(ours(x), expected)
    assert expected.abs().sum() > 0
    assert not Product(weight, most_bytes=weight.nbytes - 1).is_packed
    assert not Product(weight[1:]).is_packed
