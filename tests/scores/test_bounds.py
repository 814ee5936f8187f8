"""Interval bounds hold what they promise, and are exact where they can be."""

from __future__ import annotations

import torch
from torch import nn

from qact.scores import IntervalBounds, Outputs


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


def test_one_class_and_no_linear_layer():
    alone = nn.Sequential(nn.Linear(2, 1))
    x = torch.ones(3, 2)
    assert IntervalBounds().bind(alone).score(x).tolist() == [0, 0, 0]
    outputs = Outputs(torch.tensor([[1.0, 3.0]]), inputs=torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(
        IntervalBounds(0.5).bind(nn.ReLU()).score(outputs), torch.tensor([-1.0])
    )
