"""Mutual information of predictions, and when a follower is worth its risk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qact.adapt.information import Evidence, information, terms


def by_hand(logits: torch.Tensor) -> float:
    """``sum_ic p_ic / n log(p_ic / mean_c)``, the divergence form of the same number."""
    z = logits.double().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return float((p * np.log(p / p.mean(0))).sum() / len(p))


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_information_is_the_mean_divergence_from_the_mean(scale):
    logits = scale * torch.randn(50, 7)
    assert information(terms(logits), 50) == pytest.approx(by_hand(logits), rel=1e-9, abs=1e-12)


def test_information_lies_between_nothing_and_all_classes():
    classes = torch.arange(30) % 3
    sure = 200.0 * torch.nn.functional.one_hot(classes, 3)
    assert information(terms(sure), 30) == pytest.approx(math.log(3))
    assert information(terms(sure[:1].expand(30, 3)), 30) == pytest.approx(0, abs=1e-12)


def sample(labels: torch.Tensor, logit: float, classes: int = 10) -> torch.Tensor:
    return logit * torch.nn.functional.one_hot(labels, classes).float()


def test_a_sure_source_asks_for_proof_and_one_that_is_not_does_not():
    labels = torch.arange(100) % 10
    for logit, worth in ((6.0, False), (1.0, True)):
        evidence = Evidence(100)
        evidence.add(sample(labels, logit), sample(labels, logit))
        assert evidence.worth(size=100) is worth


def test_the_follower_must_say_more_of_few_classes_than_of_many():
    labels = torch.arange(100) % 10
    evidence = Evidence(100)
    evidence.add(sample(labels, 5.0), sample(labels, 6.0))
    assert evidence.worth(size=100)
    assert not evidence.worth(size=1)


def test_a_source_that_says_one_class_for_all_is_left_however_sure_it_is():
    labels = torch.arange(100) % 10
    evidence = Evidence(100)
    evidence.add(sample(0 * labels, 20.0), sample(labels, 4.0))
    assert evidence.worth(size=10)


def test_old_samples_fade():
    labels = torch.arange(64) % 10
    evidence = Evidence(64)
    evidence.add(sample(labels, 8.0), sample(0 * labels, 8.0))  # following was bad once
    assert not evidence.worth(size=64)
    for _ in range(8):
        evidence.add(sample(labels, 4.0), sample(labels, 8.0))
    assert evidence.worth(size=64)
    assert evidence.count == pytest.approx(128, abs=1)
