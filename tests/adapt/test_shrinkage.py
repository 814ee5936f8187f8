"""How far a sample is followed: its effective size, its correlation, its drift."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qact
from qact.adapt import followers, shrinkage


def size_of(labels: torch.Tensor, classes: int) -> float:
    return shrinkage.effective_size(shrinkage.class_shares(labels, classes), len(labels))


def test_independent_labels_count_one_by_one():
    torch.manual_seed(0)
    sizes = [size_of(torch.randint(10, (40,)), 10) for _ in range(400)]
    excess = sum(1 / size for size in sizes) / len(sizes)
    assert excess == pytest.approx(1 / 40, rel=0.2)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_an_effective_size_is_between_one_and_the_number(labels):
    size = size_of(torch.tensor(labels), 5)
    assert 1 - 1e-9 <= size <= len(labels)


@given(
    st.floats(0, 100),
    st.floats(0, 1),
    st.floats(1, 1e4),
    st.floats(0.1, 10),
)
def test_a_share_is_a_share_and_grows_with_drift_and_size(drift, rho, size, caution):
    found = shrinkage.share(drift, rho, size, caution)
    assert 0 <= found <= 1
    assert shrinkage.share(2 * drift, rho, size, caution) >= found
    assert shrinkage.share(drift, rho, 2 * size, caution) >= found


def test_the_error_of_a_mean_is_what_the_effective_size_says():
    """Class means of a dense layer: the error of unbalanced shares, over many draws of them."""
    torch.manual_seed(0)
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    means = torch.randn(20_000, 4)
    error = means[:, labels].mean(1) - means.mean(1)
    between = means.var(1, correction=0).mean()
    ratio = float(error.square().mean() / between)
    assert 1 / size_of(labels, 4) == pytest.approx(ratio, rel=0.05)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-10, 10), st.floats(0.01, 100))
def test_a_drift_is_the_same_both_ways_and_has_no_unit(one, other, gap, unit):
    a, b, g = torch.tensor([one]), torch.tensor([other]), torch.tensor([gap])
    found = shrinkage.drift(shrinkage.normal_distance(g, a, b), a, b)
    back = shrinkage.drift(shrinkage.normal_distance(-g, b, a), b, a)
    a, b, g = a * unit**2, b * unit**2, g * unit
    scaled = shrinkage.drift(shrinkage.normal_distance(g, a, b), a, b)
    assert found == pytest.approx(back, rel=1e-3, abs=1e-5)
    assert found == pytest.approx(scaled, rel=1e-3, abs=1e-5)


def test_correlation_of_images_that_are_constant_and_of_noise():
    flat = torch.randn(50, 3, 1).expand(50, 3, 16)
    noise = torch.randn(50, 3, 16)
    for z, expected in ((flat, 1.0), (noise, 1 / 16), (flat + noise, 17 / 32)):
        variance = z.var((0, 2), correction=0)
        found = shrinkage.correlation(shrinkage.by_sample(z, 50), variance)
        assert found == pytest.approx(expected, abs=0.15)
    assert shrinkage.correlation(torch.randn(1, 3), torch.ones(3)) == 1.0


def test_tokens_are_averaged_within_their_sample():
    z = torch.arange(24.0).reshape(2, 4, 3)  # (samples, tokens, channels), folded with dim=-1
    found = shrinkage.by_sample(z.reshape(8, 3, 1), 2)
    torch.testing.assert_close(found, z.mean(1))


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layer: nn.Module = {"qact": qact.QAct, "relu": nn.BatchNorm2d}[kind](2)
    for _ in range(60):
        layer(torch.randn(64, 2, 8, 8))
    return layer.eval()


def moments(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(layer, qact.QAct):
        return layer.context.mean, layer.context.std
    return layer.running_mean, layer.running_var.sqrt()


@pytest.mark.parametrize("kind", ["qact", "relu"])
def test_a_clear_shift_is_stored_and_no_shift_is_not(kind):
    torch.manual_seed(1)
    follower = followers.followers(made(kind))[0]
    assert follower.follow(torch.randn(64, 2, 8, 8), 64.0, 3.0) < 0.6
    taken = follower.follow(2 * torch.randn(64, 2, 8, 8) + 1, 64.0, 3.0)
    assert taken > 0.99
    mean, std = moments(follower.layer)
    torch.testing.assert_close(mean, torch.ones(2), atol=0.1, rtol=0)
    torch.testing.assert_close(std, torch.full((2,), 2.0), atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", ["qact", "relu"])
def test_what_earns_nothing_leaves_the_source(kind):
    layer = made(kind)
    before = [b.clone() for b in layer.buffers()]
    follower = followers.followers(layer)[0]
    follower.follow(2 * torch.randn(64, 2, 8, 8) + 1, 64.0, 3.0)
    assert follower.follow(2 * torch.randn(64, 2, 1, 1) + 1, 1.0, 3.0) == 0
    for was, now in zip(before, layer.buffers(), strict=True):
        torch.testing.assert_close(was, now)


@pytest.mark.parametrize("kind", ["qact", "relu"])
def test_a_channel_that_is_not_finite_keeps_the_source(kind):
    layer = made(kind)
    before = [m.clone() for m in moments(layer)]
    x = 2 * torch.randn(64, 2, 8, 8) + 1
    x[3, 1] = torch.inf
    followers.followers(layer)[0].follow(x, 64.0, 3.0)
    mean, std = moments(layer)
    assert mean[0] > 0.8
    assert mean[1] == before[0][1]
    assert std[1] == pytest.approx(float(before[1][1]))


def test_a_change_of_shape_alone_counts_for_a_context():
    torch.manual_seed(2)
    follower = followers.followers(made("qact"))[0]
    two = torch.randn(64, 2, 8, 8).sign() + 0.01 * torch.randn(64, 2, 8, 8)  # mean 0, spread 1
    assert follower.follow(two, 64.0, 3.0) > 0.9
