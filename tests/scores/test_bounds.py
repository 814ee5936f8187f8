"""Interval bounds hold what they promise, and are exact where they can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qact import QAct
from qact.models import resnet_small
from qact.scores import Bounds, IntervalBounds, Outputs


@pytest.mark.parametrize("act", ["relu", "qact"])
def test_samples_lie_inside(act):
    torch.manual_seed(0)
    net = resnet_small(act=act, width_multiplier=0.5)
    x = torch.rand(40, 1, 16, 16)
    net.train()(x)
    net.eval()
    box = Bounds(net)(x[:4] - 0.01, x[:4] + 0.01)
    for _ in range(20):
        y = net(x[:4] + 0.01 * (2 * torch.rand_like(x[:4]) - 1))
        assert (y >= box.low - 1e-4).all()
        assert (y <= box.high + 1e-4).all()
    point = Bounds(net)(x[:4], x[:4])
    torch.testing.assert_close(point.low, net(x[:4]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(point.high, point.low, rtol=1e-3, atol=1e-4)


def test_a_linear_layer_by_hand():
    net = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0, -1.0]]))
    box = Bounds(net)(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    assert (box.low.item(), box.high.item()) == (-3, 2)


def test_no_radius_is_minus_the_margin(model, loader, inside):
    score = IntervalBounds(0.0).fit(model, loader)
    top = inside.logits.topk(2, 1).values
    torch.testing.assert_close(score.score(inside), top[:, 1] - top[:, 0], rtol=1e-4, atol=1e-5)


def test_what_is_certified_holds(model, loader, inside):
    score = IntervalBounds(0.05).fit(model, loader)
    certified = score.score(inside) < 0
    assert 0.2 < certified.float().mean() < 1
    x, y = inside.inputs[certified], inside.logits[certified].argmax(1)
    for _ in range(20):
        moved = x + 0.05 * (2 * torch.rand_like(x) - 1)
        assert (model(moved).argmax(1) == y).all()


def test_refusals():
    with pytest.raises(NotImplementedError, match="no interval bounds of GELU"):
        Bounds(nn.Sequential(nn.GELU()))(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="low <= high"):
        Bounds(nn.Sequential(nn.ReLU()))(torch.ones(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="the model has no last"):
        IntervalBounds().bind(nn.ReLU()).score(Outputs(torch.ones(1, 2), inputs=torch.ones(1, 2)))
    assert QAct(3).num_features == 3
