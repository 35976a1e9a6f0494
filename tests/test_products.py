"""Products by oneDNN and by torch: the same numbers, whichever is taken."""

from collections.abc import Callable

import pytest
import torch

from expo_lite.policy import products
from expo_lite.policy.products import PackedProduct, PlainProduct, Product, has_onednn, linear, product

CPU = torch.device("cpu")


def test_what_goes_through_onednn() -> None:
    assert has_onednn(CPU, torch.float32) == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    assert not has_onednn(CPU, torch.bfloat16)
    assert not has_onednn(torch.device("cuda"), torch.float32)


def test_a_torch_without_the_private_operators_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_OPERATORS", ("_an_operator_that_is_gone",))
    assert not has_onednn(CPU, torch.float32)
    x, weight = torch.randn(3, 5), torch.randn(7, 5)
    assert isinstance(product(weight), PlainProduct)
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.parametrize("make", [product, PlainProduct])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 5, 7), (33, 64, 96), (300, 16, 24)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_torchs(
    shape: tuple[int, int, int], biased: bool, dtype: torch.dtype, make: Callable[..., Product]
) -> None:
    torch.manual_seed(0)
    n, n_in, n_out = shape
    x, weight = torch.randn(n, n_in).to(dtype), torch.randn(n_out, n_in).to(dtype)
    bias = torch.randn(n_out).to(dtype) if biased else None
    residual = torch.randn(n, n_out).to(dtype)
    expected = torch.nn.functional.linear(x, weight, bias)
    ours = make(weight, bias)
    assert isinstance(ours, PackedProduct) == (make is product and has_onednn(CPU, dtype))
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


def test_a_packed_product_needs_its_weight_no_more() -> None:
    weight = torch.randn(40, 24)
    ours = product(weight)
    x = torch.randn(4, 24)
    expected = ours(x)
    if has_onednn(CPU, torch.float32):
        weight.zero_()
    assert torch.equal(ours(x), expected)
    assert expected.abs().sum() > 0
