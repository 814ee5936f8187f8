"""Dyadic grids: they cover, they are the finest that do, zero is an edge, unions have no order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.rank.grid import Grid, coarsen, power_of_two, spanning, union

NUMBER = st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda v: v == 0 or abs(v) > 1e-30)
BINS = st.sampled_from([8, 64, 512, 1024])


def column(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@given(NUMBER, NUMBER, BINS)
def test_a_grid_covers_what_it_spans(a, b, bins):
    low, high = min(a, b), max(a, b)
    grid = spanning(column(low), column(high), bins)
    width = float(grid.width(torch.float64))
    offset = int(grid.offset)
    assert offset * width <= low
    assert high <= (offset + bins) * width
    # Exact edges: the offset fits into the mantissa of the data.
    assert abs(offset) <= 2**24


@given(st.floats(0.01, 100), st.floats(-10, 10), BINS)
def test_a_grid_is_the_finest_that_covers(span, low, bins):
    grid = spanning(column(low), column(low + span), bins)
    width = float(grid.width(torch.float64))
    # Half as wide would not hold the span and one edge more on either side.
    assert bins * width / 2 < span + 2 * width


def test_zero_costs_no_resolution():
    grid = spanning(column(0.0), column(0.0), 64)
    assert float(grid.width(torch.float64)) < 1e-30


@given(NUMBER, NUMBER, BINS)
def test_zero_is_an_edge(a, b, bins):
    grid = spanning(column(min(a, b)), column(max(a, b)), bins)
    index = torch.arange(bins) + grid.offset
    assert torch.equal(grid.negative()[0], index < 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_two_are_exact(dtype):
    exponent = torch.arange(-120, 121, dtype=torch.int32)
    want = torch.tensor([2.0 ** int(e) for e in exponent], dtype=dtype)
    assert torch.equal(power_of_two(exponent, dtype), want)


CELLS = st.tuples(st.integers(-40, 40), st.integers(-300, 300), st.integers(1, 512))


def joined(*cells: tuple[int, int, int]) -> tuple[int, int, int]:
    """The union as (exponent, first, last), two at a time from the left."""
    exponent, first, size = cells[0]
    have = (exponent, first, first + size)
    for e, f, n in cells[1:]:
        one = [torch.tensor([v]) for v in have]
        other = [torch.tensor([v]) for v in (e, f, f + n)]
        grid = union(one[0].int(), one[1], one[2], other[0].int(), other[1], other[2], 512)
        bounds = []
        for ex, a, b in (have, (e, f, f + n)):
            shift = grid.exponent - ex
            bounds.append(coarsen(torch.tensor([a]), torch.tensor([b]), shift))
        first = min(int(b[0]) for b in bounds)
        last = max(int(b[1]) for b in bounds)
        assert int(grid.offset) <= first
        assert last <= int(grid.offset) + 512
        have = (int(grid.exponent), first, last)
    return have


@given(st.lists(CELLS, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_a_union_has_no_order(cells, random):
    want = joined(*cells)
    shuffled = list(cells)
    random.shuffle(shuffled)
    assert joined(*shuffled) == want


def test_position_counts_bins_from_the_first_edge():
    grid = Grid(torch.tensor([-1], dtype=torch.int32), torch.tensor([-4]), 8)
    assert torch.equal(grid.width(torch.float32), torch.tensor([0.5]))
    assert grid.negative().tolist() == [[True] * 4 + [False] * 4]
