"""Probes: the minimum that scikit-learn finds, and controls that fail where there is nothing."""

from __future__ import annotations

import pytest
import torch

from qact.taps import probe, probed


def planted(n=400, c=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, generator=generator) * torch.tensor([1.0, 5, 0.1, 1, 1, 2]) + 3
    direction = torch.tensor([1.0, -0.3, 4, 0, 0, 0])
    return x, ((x - 3) @ direction > 0).long(), direction


def test_the_minimum_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y, _ = planted()
    y = y + (x[:, 5] > 4).long()  # three classes
    fitted = probe(x, y, decay=2.0)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    other = linear.LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(z.double(), y)
    found = fitted.logits(x).softmax(1)
    torch.testing.assert_close(
        found, torch.as_tensor(other.predict_proba(z.double())), atol=1e-4, rtol=1e-3
    )


def test_a_planted_direction_is_found_and_controls_are_not():
    x, y, direction = planted(4000)
    found = probed(x, y, seed=1, shuffles=40)
    assert found.accuracy > 0.98
    # Each has a direction of its own, of 6: its angle to the planted one spreads by 0.14 pi.
    assert abs(sum(found.shuffled) / 40 - 0.5) < 5 * 0.14 / 40**0.5
    # Every sample its own class: memory does not help. Shares of 2000 spread by 0.011.
    assert abs(found.control - 0.5) < 0.055
    assert found.selectivity == found.accuracy - found.control
    normal = probe(x, y, decay=1e-3).direction("layer").vectors["layer"]
    assert torch.cosine_similarity(normal, direction, dim=0) > 0.98


def test_a_control_task_that_groups_give_away_costs_selectivity():
    x, y, _ = planted()
    groups = (x[:, 1] > 3).long() * 2 + (x[:, 4] > 3).long()
    told = probed(torch.cat([x, torch.nn.functional.one_hot(groups).float()], 1), y, groups=groups)
    assert told.control > 0.95
    assert told.selectivity < 0.05


def test_noise_is_at_chance():
    x, _, _ = planted(4000)
    found = probed(x, torch.arange(4000) % 2)
    assert abs(found.accuracy - 0.5) < 0.055


REFUSALS = {
    "shape": (lambda x, y: probe(x[:, :, None], y), "values have shape .400, 6, 1."),
    "labels": (lambda x, y: probe(x, y[:3]), "labels .3,."),
    "one class": (lambda x, y: probe(x, 0 * y), "labels hold .0. alone"),
    "nan": (lambda x, y: probe(x * torch.nan, y), "not finite"),
    "decay": (lambda x, y: probe(x, y, decay=0.0), "decay=0.0"),
    "concept": (lambda x, y: probe(x, torch.arange(400) % 3).direction("a"), "has 3 classes"),
    "held out": (lambda x, y: probed(x, y, held_out=1.0), "held_out=1.0"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    use, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        use(*planted()[:2])
