"""Transport between contexts: sorted values go to sorted values, lines to lines."""

from __future__ import annotations

import pytest
import torch

import qact
from qact.activations.transport import KNOTS, _levels, transport

C, N = 3, 4000


def context(values: torch.Tensor) -> qact.Context:
    return qact.Context(values.shape[1], bins=2048).add(values)


def test_linear_act_on_three_values():
    source = context(torch.tensor([[0.0], [1.0], [2.0]]))
    target = context(torch.tensor([[1.0], [3.0], [5.0]]))
    x = torch.tensor([[-1.0], [0.5], [4.0]])
    got = transport(x, source, target, "linear", knots=999)
    torch.testing.assert_close(got, 2 * x + 1, atol=0.02, rtol=0.01)


def test_linear_act_is_the_regression_of_sorted_values():
    a, b = torch.randn(N, C).exp(), torch.randn(N, C) * 2 + 1
    s, t = a.sort(0).values, b.sort(0).values
    omega = ((s - s.mean(0)) * (t - t.mean(0))).sum(0) / (s - s.mean(0)).square().sum(0)
    want = omega * (a - a.mean(0)) + b.mean(0)
    got = transport(a, context(a), context(b), "linear", knots=N)
    torch.testing.assert_close(got, want, atol=0.02, rtol=0.03)


def test_the_exact_map_makes_sorted_outputs_the_sorted_targets():
    a, b = torch.randn(N, C).exp(), torch.rand(N, C) * 4 - 7
    got = transport(a, context(a), context(b), knots=N)
    inner = slice(4, -4)  # a histogram knows the place of the very outermost values to a bin
    got_sorted, want = got.sort(0).values[inner], b.sort(0).values[inner]
    torch.testing.assert_close(got_sorted, want, atol=0.02, rtol=0)
    assert (got.argsort(0) == a.argsort(0)).float().mean() > 0.99  # monotone: the order stays


@pytest.mark.parametrize(("n", "spread"), [(5_000, 1.0), (200_000, 0.5)])
def test_the_tail_is_moved_value_by_value(n, spread):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, 1, generator=generator)
    b = (spread * torch.randn(n, 1, generator=generator)).exp()
    source, target = qact.Context(1).add(a), qact.Context(1).add(b)
    cells = [float(c.histogram.grid.width(torch.float32)) for c in (source, target)]
    x, got, want = (t[:, 0].sort().values for t in (a, transport(a, source, target), b))
    assert (got - want).abs().mean() < 0.01
    # A context knows a place to one of its cells, and between two knots the map is a line: what is
    # off is that, between the values of the knots on either side of it. How large that gap is, is
    # luck: 0.06 to 1.5; with equal shares alone it was 3.5 and more.
    below = (torch.searchsorted(x, x - cells[0]) - 1).clamp(min=0)
    above = torch.searchsorted(x, x + cells[0], right=True).clamp(max=n - 1)
    knots = _levels(torch.tensor([n]), KNOTS)[0][0] * n
    down, up = (rank.clamp(max=n - 1).long() for rank in (knots, knots.ceil()))
    below = down[torch.searchsorted(down, below, right=True) - 1]
    above = up[torch.searchsorted(up, above)]
    assert (got >= want[below] - 0.5 * cells[1]).all()
    assert (got <= want[above] + 0.5 * cells[1]).all()


def test_the_largest_error_is_a_small_part_of_the_largest_gap_between_neighbours():
    parts = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            torch.randn(5_000, 1, generator=generator),
            torch.randn(5_000, 1, generator=generator),
        )
        b = b.exp()
        got = transport(a, qact.Context(1).add(a), qact.Context(1).add(b))
        want = b.sort(0).values
        error = (got[a[:, 0].argsort()] - want).abs().max()
        parts.append(float(error / want.diff(dim=0).max()))
    assert sorted(parts)[10] < 0.1  # 0.04, and half of 100 draws between 0.016 and 0.067
    assert max(parts) < 1  # 0.34 in 100 draws


def test_of_gaussians_both_maps_are_the_same_line():
    a, b = torch.randn(50_000, 1), 3 * torch.randn(50_000, 1) - 2
    x = torch.linspace(-2, 2, 9)[:, None]
    for kind in ("exact", "linear"):
        got = transport(x, context(a), context(b), kind, knots=999)
        torch.testing.assert_close(got, 3 * x - 2, atol=0.15, rtol=0)


def test_the_mean_alone_is_a_shift():
    a, b = torch.randn(N, C), 5 * torch.randn(N, C) + 2
    got = transport(a, context(a), context(b), "mean", knots=N)
    torch.testing.assert_close(got - a, (b.mean(0) - a.mean(0)).expand_as(a), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["exact", "linear", "mean"])
def test_strength(kind):
    a, b = torch.randn(N, C), torch.randn(N, C) + 1
    full = transport(a, context(a), context(b), kind)
    assert torch.equal(transport(a, context(a), context(b), kind, strength=0.0), a)
    half = transport(a, context(a), context(b), kind, strength=0.5)
    torch.testing.assert_close(half, (a + full) / 2)


@pytest.mark.parametrize("kind", ["exact", "linear", "mean"])
@pytest.mark.parametrize(("shape", "dim"), [((6, C), 1), ((2, C, 4, 4), 1), ((2, 5, C), -1)])
def test_gradients_and_layouts(kind, shape, dim):
    a, b = torch.randn(N, C), torch.randn(N, C).exp()
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    source, target = context(a), context(b)

    def run(x):
        return transport(x, source, target, kind, dim=dim)

    assert torch.autograd.gradcheck(run, x, atol=1e-4)
    flat = x.detach().movedim(dim, -1).reshape(-1, C)
    moved = transport(flat, source, target, kind).reshape(x.movedim(dim, -1).shape)
    torch.testing.assert_close(run(x).movedim(dim, -1), moved)


def test_beyond_what_was_seen_it_shifts():
    a, b = torch.rand(N, 1), torch.rand(N, 1) + 10
    got = transport(torch.tensor([[-5.0], [9.0]]), context(a), context(b))
    torch.testing.assert_close(got, torch.tensor([[5.0], [19.0]]), atol=0.3, rtol=0)


def test_the_layer_learns_its_target_and_maps_back():
    layer, x = qact.activation("transported", C), torch.randn(N, C)
    assert torch.equal(layer(x), x)
    layer.eval()
    assert torch.equal(layer(7 * x), 7 * x)  # nothing known of the source: the identity
    layer.source.add(7 * x - 3)
    torch.testing.assert_close(layer(7 * x - 3), x, atol=0.05, rtol=0)


def test_what_does_not_fit_is_named():
    empty, full = qact.Context(C), context(torch.randn(N, C))
    with pytest.raises(RuntimeError, match="seen no data"):
        transport(torch.zeros(2, C), empty, full)
    with pytest.raises(ValueError, match=r"shape \(2, 5\); expected 3 channels at dim 1"):
        transport(torch.zeros(2, 5), full, full)
    with pytest.raises(ValueError, match="map='affine'"):
        transport(torch.zeros(2, C), full, full, "affine")
