"""p-values of drift: Kolmogorov's distribution, and how many values a sample is worth."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

import qact
from qact.statistics.distance import p_value
from qact.statistics.drift import LayerDrift


def test_kolmogorovs_distribution_is_scipys():
    for n in (16, 100, 2000):
        ks = torch.tensor([0.3, 0.7, 1.0, 1.3, 1.8]) / n**0.5
        exact = torch.from_numpy(stats.kstwo.sf(ks.numpy(), n))
        found = p_value(ks, torch.tensor(float(n)))
        assert torch.allclose(found, exact, atol=0.02)  # Stephens' correction is for the tail
        assert torch.allclose(found[3:], exact[3:], rtol=0.07, atol=0)


class Stored(nn.Module):
    """One QAct that has seen a great many standard normal values."""

    def __init__(self) -> None:
        super().__init__()
        self.act = qact.QAct(4)
        self.act.context.add(torch.randn(50_000, 4)).compact()

    def forward(self, x):
        return self.act(x)


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_the_share_of_false_alarms_is_the_level(shared):
    model = Stored().eval()
    found = []
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        between = torch.randn(64, 4, 1, 1, generator=draw)
        within = torch.randn(64, 4, 3, 3, generator=draw)
        x = shared**0.5 * between + (1 - shared) ** 0.5 * within
        found.append(qact.drift(model, x).layers[0].p)
    p = torch.stack(found)
    # Where values are alike the size is that of the mean rank, which is the least of all: finer
    # differences vary more within a sample, and the p-value is on the safe side.
    assert (0.0 if shared else 0.02) <= (p <= 0.05).double().mean() < 0.09
    assert p.median() > 0.3
    assert qact.drift(model, x + 1).layers[0].p_value < 1e-6


def test_a_combination_of_equal_p_values_is_that_value():
    for value in (0.5, 0.03, 1e-8):
        p = torch.full((9,), value, dtype=torch.float64)
        assert LayerDrift("x", p, p, p).p_value == pytest.approx(value, rel=1e-3)
    assert LayerDrift("x", p, p).p_value is None


def test_one_sample_and_constants_are_no_drift():
    model = Stored().eval()
    assert (qact.drift(model, torch.randn(1, 4)).layers[0].p > 1e-3).all()
    assert "p" in str(qact.drift(model, torch.randn(8, 4))).splitlines()[0].split()
