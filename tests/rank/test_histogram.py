"""Histograms add up: exactly, in any order, whatever the scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qact import Context
from qact.rank.grid import Grid, spanning
from qact.rank.histogram import Histogram, empty, merge, regrid

EXACT = ("mass", "moment")


def dyadic(draw) -> Tensor:
    """A few values ``(k + shift) * 2**e``: exact numbers of any scale and place."""
    count = draw(st.integers(1, 20))
    whole = draw(st.lists(st.integers(-127, 127), min_size=count, max_size=count))
    shift, exponent = draw(st.sampled_from([0, 0, 50, -3000])), draw(st.integers(-40, 40))
    return (torch.tensor(whole, dtype=torch.float32) + shift) * 2.0**exponent


values = st.composite(dyadic)()


def of(z: Tensor, bins: int = 512) -> Histogram:
    context = Context(1, bins).add(z[:, None])
    return context.histogram


def assert_same(a: Histogram, b: Histogram, *, moments: str = "bitwise") -> None:
    assert torch.equal(a.grid.exponent, b.grid.exponent)
    assert torch.equal(a.grid.offset, b.grid.offset)
    assert torch.equal(a.mass, b.mass)
    if moments == "bitwise":
        assert torch.equal(a.moment, b.moment)
    else:
        assert bool(((a.moment - b.moment).abs() <= a.mass * 2.0**-8 + 1e-6).all())
    scale = a.std.abs() + a.mean.abs() + b.std.abs()
    assert bool(((a.mean - b.mean).abs() <= 1e-5 * scale).all())
    assert bool(((a.std - b.std).abs() <= 1e-5 * scale).all())


@given(values, values)
def test_merging_is_commutative(a, b):
    assert_same(merge(of(a), of(b)), merge(of(b), of(a)))


@given(values, values, values)
def test_merging_is_associative(a, b, c):
    one = merge(merge(of(a), of(b)), of(c))
    other = merge(of(a), merge(of(b), of(c)))
    # Positions that 24 bits cannot hold beside a far wider grid are rounded.
    assert_same(one, other, moments="rounded")


@given(st.lists(st.integers(-127, 127), min_size=3, max_size=60), st.integers(-30, 30))
def test_merging_is_associative_to_the_bit_on_one_scale(whole, exponent):
    z = torch.tensor(whole, dtype=torch.float32) * 2.0**exponent
    a, b, c = z[::3], z[1::3], z[2::3]
    one = merge(merge(of(a), of(b)), of(c))
    assert_same(one, merge(of(a), merge(of(b), of(c))))
    assert_same(merge(of(c), of(a)), merge(of(a), of(c)))


@given(values, values)
def test_merged_is_the_histogram_of_all_the_data(a, b):
    both, joined = merge(of(a), of(b)), of(torch.cat([a, b]))
    # On the coarser of their two grids: a merge cannot refine what it was given.
    exponent = torch.maximum(both.grid.exponent, joined.grid.exponent)
    low = torch.cat([a, b]).double().amin()
    width = 2.0 ** float(exponent)
    grid = Grid(exponent, (low / width).floor().long()[None] - 1, 1024)
    assert_same(regrid(both, grid), regrid(joined, grid), moments="rounded")
    assert float(both.count) == len(a) + len(b)


@given(values)
def test_counts_are_those_of_numpy(z):
    histogram = of(z)
    width = 2.0 ** float(histogram.grid.exponent)
    edges = (int(histogram.grid.offset) + np.arange(513)) * width
    numbers = z.double().numpy()
    # numpy closes the last bin on the right, so one empty bin more stands behind it.
    counts, _ = np.histogram(numbers, np.append(edges, edges[-1] + width))
    assert histogram.mass[0].tolist() == counts[:-1].tolist()
    assert float(histogram.mean) == pytest.approx(numbers.mean(), rel=1e-5, abs=1e-30)
    assert float(histogram.std) == pytest.approx(numbers.std(), rel=1e-4, abs=1e-30)


@given(values)
def test_moments_place_the_mass_where_it_was(z):
    histogram = of(z)
    width = 2.0 ** float(histogram.grid.exponent)
    index = torch.arange(512) + histogram.grid.offset[:, None]
    total = ((histogram.mass * index + histogram.moment).double() * width).sum()
    assert float((total - z.double().sum()).abs()) <= len(z) * width / 256


@given(values)
def test_the_sign_of_every_value_is_known(z):
    # A far value makes the grid so wide that all the others fall beside zero.
    histogram = of(torch.cat([z, z.abs().amax()[None] * 2.0**30]))
    negative = (histogram.mass * histogram.grid.negative()).sum()
    assert float(negative) == float((z < 0).sum())


def test_nothing_is_the_neutral_element():
    z = torch.randn(100)
    nothing = empty(1, 512, dtype=torch.float32, device=None)
    for both in (merge(nothing, of(z)), merge(of(z), nothing)):
        assert_same(both, of(z))
    twice = merge(nothing, nothing)
    assert float(twice.count) == 0


def test_regridding_collects_what_is_outside_and_keeps_the_mass():
    z = torch.randn(1000)
    full = of(z)
    narrow = regrid(full, spanning(torch.tensor([-1.0]), torch.tensor([1.0]), 512))
    assert float(narrow.count) == 1000
    finer = regrid(full, spanning(torch.tensor([-8.0]), torch.tensor([8.0]), 4096))
    assert float(finer.count) == 1000
    assert torch.equal(finer.mass[finer.mass > 0].sum(), full.mass.sum())


def test_channels_are_merged_alone():
    a, b = torch.randn(50, 2), torch.randn(50, 2) * torch.tensor([1.0, 2.0**40])
    both = merge(Context(2).add(a).histogram, Context(2).add(b).histogram)
    for c in range(2):
        alone = merge(of(a[:, c]), of(b[:, c]))
        for name in EXACT:
            assert torch.equal(getattr(both, name)[c], getattr(alone, name)[0])


def test_scaling_the_mass():
    histogram = of(torch.randn(64))
    half = histogram.scaled(0.5)
    assert torch.equal(half.mass * 2, histogram.mass)
    assert torch.equal(half.moment * 2, histogram.moment)
    assert torch.equal(half.std, histogram.std)
