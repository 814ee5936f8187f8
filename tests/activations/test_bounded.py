"""Clipped functions: what they keep, what they drop, and that they are bounded."""

from __future__ import annotations

import pytest
import torch

import qact
from qact.activations.bounded import clipact, fitact

X = torch.linspace(-20, 20, 4001, dtype=torch.float64)


def test_clipact_zeroes_what_exceeds_the_threshold():
    t = torch.tensor(1.5, dtype=torch.float64)
    x = torch.tensor([-1.0, 0.0, 1.5, 1.5 + 1e-9, 1e30, torch.inf, torch.nan], dtype=torch.float64)
    assert clipact(x, t).tolist() == [0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(qact.activation("clipact")(X), X.relu())


def test_fitact_stays_below_its_bound_and_tends_to_relu():
    for bound in (0.05, 0.5, 3.0):
        y = fitact(X, torch.tensor(bound, dtype=torch.float64))
        assert (y >= 0).all()
        assert (y <= bound).all()
    far = fitact(X, torch.tensor(1e6, dtype=torch.float64))
    torch.testing.assert_close(far, X.relu())
    wild = torch.tensor([1e30, torch.inf, -torch.inf])
    assert fitact(wild, torch.tensor(2.0)).tolist() == [0.0, 0.0, 0.0]


def test_fitact_written_out():
    bound = torch.tensor(2.0, dtype=torch.float64)
    want = (X - X / (1 + torch.exp(-20 * (X - bound)))).relu()
    torch.testing.assert_close(fitact(X, bound), want, atol=1e-12, rtol=1e-9)


def test_one_bound_per_neuron_or_per_layer():
    assert qact.activation("fitact", 12).bound.shape == (12,)
    assert qact.activation("proact", 12).bound.shape == (1,)
    module = qact.activation("fitact", 2)
    with torch.no_grad():
        module.bound.copy_(torch.tensor([1.0, 4.0]))
    x = torch.full((1, 2, 3, 3), 3.0)
    y = module(x)
    assert y[0, 0].max() < 1e-3
    torch.testing.assert_close(y[0, 1], x[0, 1])


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match=r"5 channels at dim 1 \(shape \(2, 5\)\).*has 3"):
        qact.activation("fitact", 3)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="threshold=0 must be positive"):
        qact.activation("clipact", threshold=0)
