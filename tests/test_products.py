"""Products by oneDNN and by torch: the same numbers, whichever is taken."""

import pytest
import torch

from expo_lite.policy import products
from expo_lite.policy.products import PACKED_FROM, Product, has_onednn, linear

CPU = torch.device("cpu")


def test_what_goes_through_onednn() -> None:
    assert has_onednn(CPU, torch.float32) == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    assert not has_onednn(CPU, torch.bfloat16)
    assert not has_onednn(torch.device("cuda"), torch.float32)


def test_a_torch_without_the_private_operators_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_OPERATORS", ("_an_operator_that_is_gone",))
    assert not has_onednn(CPU, torch.float32)
    x, weight = torch.randn(3, 5), torch.randn(7, 5)
    assert not Product(torch.randn(512, PACKED_FROM // 512)).is_packed
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.parametrize("packed_from", [0, PACKED_FROM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 5, 7), (33, 64, 96), (300, 16, 24)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_torchs(
    shape: tuple[int, int, int], biased: bool, dtype: torch.dtype, packed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(products, "PACKED_FROM", packed_from)
    n, n_in, n_out = shape
    x, weight = torch.randn(n, n_in).to(dtype), torch.randn(n_out, n_in).to(dtype)
    bias = torch.randn(n_out).to(dtype) if biased else None
    residual = torch.randn(n, n_out).to(dtype)
    expected = torch.nn.functional.linear(x, weight, bias)
    ours = Product(weight, bias)
    assert ours.is_packed == (packed_from == 0 and has_onednn(CPU, dtype))
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
    assert ours.is_packed == has_onednn(CPU, torch.float32)
    if ours.is_packed:
        weight.zero_()
    assert torch.equal(ours(x), expected)
    assert expected.abs().sum() > 0
    assert not Product(weight, most_bytes=weight.nbytes - 1).is_packed
    assert not Product(weight[1:]).is_packed
