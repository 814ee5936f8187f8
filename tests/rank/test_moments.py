"""Mean and variance: against float64, of every layout, and the union against all values at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.rank import moments as m

SHAPES = [(64, 5, 1), (7, 3, 11), (1, 2, 400), (70, 3, 2000), (2, 600, 300), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 2.5, 3.0, 1000.0])
@pytest.mark.parametrize("function", [m.moments, m.constant_moments])
def test_against_float64(shape, offset, function):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + offset
    mean, variance = function(z)
    exact = z.double()
    want = exact.mean((0, 2)), exact.var((0, 2), correction=0)
    # The mean is rounded to float32, and what the deviations lose by that is its square.
    torch.testing.assert_close(mean.double(), want[0], rtol=4e-7, atol=1e-7)
    torch.testing.assert_close(variance.double(), want[1], rtol=4e-6, atol=(1e-6 * offset) ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strided_and_channels_last(dtype):
    z = torch.randn(6, 4, 5, 5, dtype=dtype)
    rows = z.permute(0, 2, 3, 1).reshape(-1, 4, 1)
    apart = z.expand(3, 6, 4, 5, 5)[1].flatten(2).transpose(1, 2).contiguous().transpose(1, 2)
    for one in (rows, apart):
        for got, want in zip(m.constant_moments(one), m.moments(z.flatten(2)), strict=True):
            torch.testing.assert_close(got, want)


def test_each_channel_is_summed_about_its_own_mean():
    offset = torch.tensor([0.0, 1e4, -2.0, 1e-3])[:, None]
    scale = torch.tensor([1.0, 1e-2, 1e15, 0.0])[:, None]
    z = torch.randn(20, 4, 300, generator=torch.Generator().manual_seed(0)) * scale + offset
    exact = z.double()
    for found, want in zip(
        m.constant_moments(z), (exact.mean((0, 2)), exact.var((0, 2), correction=0)), strict=True
    ):
        torch.testing.assert_close(found.double(), want, rtol=2e-3, atol=1e-12)


def test_it_leaves_its_input_alone_and_tells_what_is_not_finite():
    z = torch.randn(4, 3, 9)
    before = z.clone()
    m.constant_moments(z)
    assert torch.equal(z, before)
    z[2, 1, 4] = torch.nan
    z[0, 2, 0] = torch.inf
    for moment in m.constant_moments(z):
        assert moment.isfinite().tolist() == [True, False, False]
    assert not m.constant_moments(z.requires_grad_())[1].requires_grad


@given(st.integers(1, 30), st.integers(1, 30), st.floats(-50, 50), st.floats(0, 10))
def test_the_union_is_that_of_all_values(n, k, gap, scale):
    draw = torch.Generator().manual_seed(n * 31 + k)
    one = torch.randn(n, 2, 1, generator=draw, dtype=torch.float64)
    other = scale * torch.randn(k, 2, 1, generator=draw, dtype=torch.float64) + gap
    found = m.union(m.moments(one), m.moments(other), k / (n + k))
    for got, want in zip(found, m.moments(torch.cat([one, other])), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
