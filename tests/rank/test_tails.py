"""Values that stand far out: they leave the grid to the bulk, and contexts still add up exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qact import Context, record
from qact.kernels import passes
from qact.kernels.cpu import merge
from qact.kernels.cpu import passes as compiled
from qact.rank import tails
from qact.rank.grid import Grid
from qact.rank.histogram import settled
from qact.recalibrate.transfer import by_rank

BINS = 64


def batches(seed: int, sizes: list[int], wild: list[float]) -> list[Tensor]:
    """Batches of 256ths of integers, whose places in bins are exact, with some values far out."""
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, 2, generator=g) * 4 for n in sizes]
    for value, batch in zip(wild, itertools.cycle(made), strict=False):
        batch[int(torch.randint(len(batch), (), generator=g))] = value
    return [(batch * 256).round() / 256 for batch in made]


def same(a: Context, b: Context) -> bool:
    names = ("mass", "moment", "exponent", "offset", "tails")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from([1, 30, 700, 1599, 1600, 1601, 2500]), min_size=3, max_size=3),
    st.lists(st.sampled_from([-(2.0**20), -500.0, 64.0, 1000.0, 2.0**15]), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_adding_is_associative_commutative_and_that_of_the_joined_values(seed, sizes, wild):
    x, y, z = batches(seed, sizes, wild)
    a, b, c = (Context(2, BINS).add(part) for part in (x, y, z))
    left, right, turned = (a + b) + c, a + (b + c), c + (b + a)
    for other in (right, turned):
        assert torch.equal(left.mass, other.mass)
        assert torch.equal(left.exponent, other.exponent)
        assert torch.equal(left.offset, other.offset)
        assert torch.equal(left.tails, other.tails)
        torch.testing.assert_close(left.moment, other.moment, atol=1e-4, rtol=1e-6)
    assert left.count.tolist() == [float(sum(sizes))] * 2
    whole = torch.cat([x, y, z])
    torch.testing.assert_close(left.mean, whole.mean(0), rtol=1e-4, atol=1e-3)
    ordered = whole.T.sort(1).values
    if sum(sizes) <= tails.ALL:
        torch.testing.assert_close(left.tails[:, : sum(sizes)], ordered, rtol=0, atol=0.02)
    else:
        k = tails.KEPT
        ends = torch.cat([ordered[:, :k], ordered[:, -k:]], 1)
        far = float(left.exponent.exp2().amax()) / 256
        torch.testing.assert_close(left.tails, ends, rtol=0, atol=far)
    # Each bin's mass is that of the values in it, by the definition of a bin.
    width, first = left.exponent.exp2(), left.offset
    cell = ((whole / width).floor() - first).clamp(0, BINS - 1)
    want = torch.stack([torch.bincount(cell[:, i].long(), minlength=BINS) for i in range(2)])
    assert torch.equal(left.mass, want.to(left.mass.dtype))


@pytest.mark.parametrize("ratio", [1e2, 1e6, 1e30])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_freak_values_leave_the_grid_to_the_bulk(count, ratio):
    z = torch.randn(5000, 1)
    clean = Context(1).add(z)
    z[:count] = ratio * (1 + torch.rand(count, 1))
    at = torch.linspace(-3, 3, 301)[:, None]
    want = (at >= z.T).double().mean(1, keepdim=True)
    by_parts = Context(1)
    for part in z.split(700):
        by_parts.add(part)
    for context in (Context(1).add(z), by_parts):
        assert float(context.exponent - clean.exponent) <= 1
        got = context.rank(at, grounded=False, smooth=False).double()
        assert float((got - want).abs().max()) <= 0.01  # half of the fullest bin
        torch.testing.assert_close(context.mean, z.double().mean(0).float(), rtol=1e-4, atol=0)


def test_the_map_by_rank_of_data_onto_themselves_is_the_identity_beside_a_freak_value():
    z = torch.cat([torch.randn(5000, 1), torch.tensor([[1000.0]])])
    back = by_rank(z, Context(1).add(z))
    assert float((back - z).abs()[:-1].mean()) <= 0.005
    assert float(back[-1]) == pytest.approx(1000, rel=1e-3)
    shifted = by_rank(3 * z + 5, Context(1).add(z))
    assert float((shifted - z).abs()[:-1].mean()) <= 0.01


@pytest.mark.own_seed  # a bound that most draws keep
def test_a_recording_survives_one_sample_that_is_far_too_large():
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU())
    x = torch.randn(2048, 8)
    spoilt = x.clone()
    spoilt[7] *= 100
    fresh = torch.randn(500, 8) * 1.5 + 0.5
    found = []
    for data in (x, spoilt):
        record(model, data.split(256))
        source = model[1].source_context
        assert source.tails is None  # nothing more is stored than before
        found.append(by_rank(model[:2](fresh), source).detach())
    assert float((found[0] - found[1]).abs().mean()) <= 0.03


@pytest.mark.parametrize("kind", ["normal", "relu", "constant", "ties", "cauchy", "sorted"])
@pytest.mark.parametrize("n", [1, 5, 64, 65, 700, 5000])
def test_compiled_extremes_are_those_of_torch(kind, n):
    z = torch.randn(n, 3, 2)
    z = {
        "normal": z,
        "relu": z.relu(),
        "constant": z * 0 + 3,
        "ties": z.round(),
        "cauchy": z / torch.randn(n, 3, 2),
        "sorted": z.sort(0).values,
    }[kind]
    values = z.transpose(0, 1).flatten(1).sort(1).values
    got, want = compiled.extremes(z, 32), passes.extremes(z, 32)
    assert torch.equal(got, want)
    known = min(2 * n, 64)
    assert torch.equal(want[:, : min(known, 32)], values[:, : min(known, 32)])
    if 2 * n > 64:
        assert torch.equal(want[:, 32:], values[:, -32:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("halvings", [-40, -3, 0, 2, 70])
def test_compiled_sums_are_those_of_torch(n, halvings, dtype):
    z = (torch.randn(n, 5) * torch.tensor([1.0, 1e-3, 1e6, 0.0, 1.0]) + 0.3).to(dtype)
    z[::2, 4] = 0.0
    own = Context(5, 64, dtype=dtype).add(z)
    grid = own.histogram.grid
    other = Grid(grid.exponent + halvings, (grid.offset >> max(halvings, 0)) + 5, 64)
    given = own.histogram, own.tails, own.count, other
    for got, want in zip(merge.settled(*given), settled(*given), strict=True):
        assert torch.equal(got, want)
    spoilt = replace(own.histogram, mass=own.mass * 0)
    for function in (settled, merge.settled):
        with pytest.raises(RuntimeError, match="not of its bins"):
            function(spoilt, *given[1:])


def test_states_without_tails_are_added_on_the_union_of_their_grids():
    """As version 0.1.0 stored them: nothing is lost, and nothing far out is told apart."""
    z = torch.randn(500, 2)
    old = {k: v for k, v in Context(2).add(z).state_dict().items() if k != "tails"}
    context = Context(2)
    context.load_state_dict(old)
    context.add(z + 1)
    assert context.tails is None
    assert context.count.tolist() == [1000.0, 1000.0]
    whole = torch.cat([z, z + 1])
    torch.testing.assert_close(context.mean, whole.mean(0), atol=1e-4, rtol=0)
    loaded = Context(2)
    loaded.load_state_dict(Context(2).add(z).state_dict())
    assert same(loaded.add(z + 1), Context(2).add(z).add(z + 1))
    assert loaded.decay(1.0).tails is not None
    assert loaded.decay(0.5).tails is None


def test_adding_nothing_rounds_nothing():
    """Mean and spread went through a square root of their square, which moved the last bit."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(16, 64, 6, generator=generator) * 0.01 + 0.3
    once = Context(64, 128).add(z)
    for twice in (Context(64, 128).merge(once), once.clone().merge(Context(64, 128))):
        for name, value in once.state_dict().items():
            assert torch.equal(twice.state_dict()[name], value), name
