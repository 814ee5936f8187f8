"""A running context is the moving average of all batches: counted here value by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qact import QAct

ENGINES = ["cpu", "eager", "reference"]
RATE = 0.25


def weights(batches: int) -> Tensor:
    """What a value of each batch weighs in the end: the mean at first, then the moving average."""
    found = torch.zeros(batches, dtype=torch.float64)
    for k in range(batches):
        rate = max(1 / (k + 1), RATE)
        found[:k] *= 1 - rate
        found[k] = rate
    return found


def followed(batches: list[Tensor], engine: str, bins: int = 64) -> QAct:
    if engine == "cpu":
        pytest.importorskip("numba")
    layer = QAct(batches[0].shape[1], momentum=RATE, bins=bins, engine=engine)
    for batch in batches:
        layer(batch)
    return layer


@pytest.mark.parametrize("engine", ENGINES)
def test_on_a_grid_that_stays_bins_mean_and_spread_are_exact(engine):
    draw = torch.Generator().manual_seed(0)
    first = torch.linspace(-4, 4, 200)[:, None].expand(-1, 3)
    batches = [first, *(torch.rand(200, 3, generator=draw) * 5 - 2 for _ in range(12))]
    scale, shift = torch.tensor([1.0, 1e-3, 1.0]), torch.tensor([0.0, 0.0, 50.0])
    batches = [batch * scale + shift for batch in batches]
    context = followed(batches, engine).context
    start = followed(batches[:1], engine).context
    assert torch.equal(context.exponent, start.exponent)
    assert torch.equal(context.offset, start.offset)
    values, share = torch.stack(batches).double(), weights(len(batches))[:, None].expand(-1, 200)
    for c in range(3):
        x, w = values[..., c].flatten(), share.flatten()
        place = x / 2 ** context.exponent[c].double() - context.offset[c]
        mass = torch.zeros(64, dtype=torch.float64).index_add(0, place.long(), w)
        torch.testing.assert_close(context.mass[c].double(), mass, rtol=1e-5, atol=1e-6)
        moment = torch.zeros_like(mass).index_add(0, place.long(), w * place.frac())
        torch.testing.assert_close(context.moment[c].double(), moment, rtol=2e-2, atol=1e-3)
        mean = (w @ x) / w.sum()
        std = ((w @ (x - mean) ** 2) / w.sum()).sqrt()
        # To 1e-4 of the spread: those of the first batch were read off its bins.
        torch.testing.assert_close(context.mean[c].double(), mean, rtol=1e-6, atol=1e-4 * std)
        torch.testing.assert_close(context.std[c].double(), std, rtol=1e-4, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_grid_moves_for_values_beyond_it_and_when_most_of_it_lies_idle(engine):
    # Less than all of a grid, whatever the order.
    batches = [0.8 * ((torch.randperm(100)[:, None] + 0.5) / 100 - 0.5) for _ in range(60)]
    usual = followed(batches[:20], engine).context
    batches[20] = 8 * batches[20]
    wide = followed(batches[:21], engine).context
    assert wide.exponent - usual.exponent == 3
    # The wide batch's share falls below `TRIM` after 32 more; what is rarer is swept aside.
    assert followed(batches[:40], engine).context.exponent == wide.exponent
    settled = followed(batches, engine).context
    assert settled.exponent == usual.exponent
    torch.testing.assert_close(settled.std, usual.std, rtol=0.05, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_heavy_tails_keep_ranks_near_those_of_all_batches(engine):
    draw = torch.Generator().manual_seed(2)
    normal = torch.randn(4, 40, 500, 1, generator=draw)
    batches = list(normal[0] / normal[1:].square().mean(0).sqrt())  # Student's t, of 3 degrees
    context = followed(batches, engine, 512).context
    x, w = torch.cat(batches).double().flatten(), weights(40).repeat_interleave(500) / 500
    z = torch.linspace(-3, 3, 41)[:, None]
    h = 0.2 * (w @ (x - w @ x) ** 2).sqrt()
    exact = torch.special.ndtr((z.double() - x) / h) @ w
    got = context.rank(z, grounded=False, bandwidth=float(h))[:, 0].double()
    assert (got - exact).abs().max() < 1 / 400
