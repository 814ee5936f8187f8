"""Distances and what is made of them, from the smallest to the largest numbers of a dtype."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.calibration import mean_average_precision
from qact.losses import (
    WatershedClassifier,
    triplet_loss,
    triplet_watershed_loss,
    watershed_loss,
)
from qact.losses.distances import distances_between, distances_to, pairwise_distances

LOSSES = [triplet_loss, watershed_loss, triplet_watershed_loss]


def wide(x):
    """All distances in extended precision, difference by difference."""
    x = x.numpy().astype(np.longdouble)
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [-0.9, -0.5, 0.0, 0.5, 0.95])
def test_distances_at_every_size_that_the_dtype_has(dtype, share):
    exponent = int(share * (124 if dtype == torch.float32 else 1020))
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = torch.ldexp(x / 8 + 1, torch.tensor(exponent, dtype=dtype))
    expected = wide(x)
    scale = expected.max()
    eps = torch.finfo(dtype).eps if dtype == torch.float32 else 1e-8
    for found in (pairwise_distances(x), distances_between(x, x)):
        assert found.dtype == dtype
        assert np.abs(found.numpy() - expected).max() / scale < 4 * eps
    index = torch.arange(40).roll(1)[:, None]
    near = distances_to(x, index)[:, 0].numpy()
    assert np.abs(near - expected[range(40), index[:, 0]]).max() / scale < 1e-6


def test_a_float32_distance_is_right_to_its_last_digits():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 16, generator=generator)
    x[30:] = x[:30] + 1e-3 * torch.randn(30, 16, generator=generator)  # near beside far ones
    found, expected = pairwise_distances(x).numpy(), wide(x)
    off = ~np.eye(60, dtype=bool)
    assert (np.abs(found - expected)[off] / expected[off]).max() < 2e-7


@pytest.mark.parametrize("exponent", [-100, -60, 0, 40, 63, 64, 66, 100, 120])
def test_the_margin_is_not_lost_beside_large_distances(exponent):
    # Anchor 0: d_ap = v, d_an = 2 v. Anchor 1: d_ap = d_an = v. Anchor 2 has no positive.
    v = 1.1 * 2.0**exponent
    x, y = torch.tensor([[0.0], [v], [2 * v]], requires_grad=True), torch.tensor([0, 0, 1])
    loss = triplet_loss(x, y, miner="hard")
    assert loss.item() == pytest.approx((max(0.0, 1 - v) + 1) / 2, rel=1e-6)
    loss.backward()
    assert torch.isfinite(x.grad).all()


@given(st.integers(-60, 60), st.sampled_from(["all", "hard", "semi_hard"]))
def test_losses_are_homogeneous_to_the_bit(exponent, miner):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 5, generator=generator), torch.arange(24) % 3
    factor = 2.0**exponent
    one = triplet_loss(x, y, miner=miner, margin=0.7)
    assert triplet_loss(factor * x, y, miner=miner, margin=0.7 * factor) == factor * one


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_finite_is_refused(loss, bad):
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    x[5, 2] = bad
    with pytest.raises(ValueError, match="embeddings must be finite, 1 of 12 are not"):
        loss(x, y)
    with pytest.raises(ValueError, match="must be finite"):
        mean_average_precision(x, y)
    for method in ("nearest", "prototype", "watershed"):
        with pytest.raises(ValueError, match="must be finite"):
            WatershedClassifier(method).fit(x, y)
        with pytest.raises(ValueError, match="must be finite"):
            WatershedClassifier(method).fit(x.nan_to_num(0, 0, 0), y).predict(x)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e19, 1e30])
def test_neighbours_do_not_depend_on_the_unit(scale):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 4
    x = torch.randn(60, 5, generator=generator) + 2 * torch.eye(4, 5)[y]
    assert mean_average_precision(scale * x, y) == pytest.approx(mean_average_precision(x, y))
    for method in ("nearest", "prototype", "watershed"):
        models = [
            WatershedClassifier(method, generator=torch.Generator().manual_seed(0)).fit(c * x, y)
            for c in (1.0, scale)
        ]
        new = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
        one, two = models[0].predict(new), models[1].predict(scale * new)
        if scale > 1 or method == "watershed":  # 1e-20 apart, softmax is uniform: no class leads
            assert torch.equal(one, two)


def test_watershed_of_huge_embeddings_is_finite():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 2
    for scale in (1e19, 1e30):
        grown = (scale * x).requires_grad_()
        loss = watershed_loss(grown, y, generator=torch.Generator().manual_seed(0))
        small = watershed_loss(x.double() * 1e3, y, generator=torch.Generator().manual_seed(0))
        # Far from all ties the loss is the distance that is missing, and that is homogeneous.
        assert loss.item() / scale == pytest.approx(small.item() / 1e3, rel=1e-2)
        loss.backward()
        assert torch.isfinite(grown.grad).all()
