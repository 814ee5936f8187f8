import itertools

import pytest
import torch
from torch import tensor

from qact.calibration import area_under_risk_coverage, mean_average_precision, risk_coverage


def test_risk_coverage_by_loops():
    probs = torch.randn(200, 4, dtype=torch.float64).softmax(1)
    labels = torch.randint(4, (200,))
    order = sorted(range(200), key=lambda i: -float(probs[i].max()))
    wrong = [int(probs[i].argmax() != labels[i]) for i in order]
    expected = [sum(wrong[:k]) / k for k in range(1, 201)]
    coverage, risk = risk_coverage(probs, labels)
    assert risk.tolist() == pytest.approx(expected)
    assert coverage.tolist() == pytest.approx([k / 200 for k in range(1, 201)])
    assert area_under_risk_coverage(probs, labels) == pytest.approx(sum(expected) / 200)


def test_ties_count_as_their_mean_over_all_orders():
    probs = tensor([[0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.7, 0.3]], dtype=torch.float64)
    labels = tensor([0, 1, 0, 0])
    risks = []
    for order in itertools.permutations((1, 2, 3)):
        wrong = [0, *(int(labels[i] != 0) for i in order)]
        risks.append([sum(wrong[:k]) / k for k in range(1, 5)])
    expected = torch.tensor(risks).mean(0)
    assert torch.allclose(risk_coverage(probs, labels)[1], expected.double())
    turned = risk_coverage(probs.flip(0), labels.flip(0))[1]
    assert torch.allclose(turned, expected.double())


def test_perfect_and_useless_confidence():
    hits = torch.arange(100) < 80
    confidence = torch.linspace(1, 0.5, 100)
    probs = torch.stack([confidence, 1 - confidence], 1)
    labels = (~hits).long()
    best = area_under_risk_coverage(probs, labels)
    worst = area_under_risk_coverage(probs, labels.flip(0))
    flat = area_under_risk_coverage(torch.tensor([[0.75, 0.25]]).repeat(100, 1), labels)
    assert best < flat < worst
    assert flat == pytest.approx(0.2)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_map_with_what_was_retrieved_equals_torchmetrics(k):
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    x, y = torch.randn(60, 3), torch.randint(4, (60,))
    d = torch.cdist(x, x)
    scores = []
    for i in range(60):
        others = torch.arange(60) != i
        scores.append(
            retrieval.retrieval_average_precision(
                1 / (1 + d[i][others]), (y == y[i])[others], top_k=k
            )
        )
    found = mean_average_precision(x, y, k=k, divide_by="retrieved")
    assert found == pytest.approx(float(torch.stack(scores).mean()), abs=1e-6)


def test_map_counts_what_was_not_found():
    x, y = torch.arange(6.0)[:, None] ** 1.1, tensor([0, 1, 1, 1, 1, 0])
    assert mean_average_precision(x, y, k=2) < mean_average_precision(
        x, y, k=2, divide_by="retrieved"
    )
    apart = torch.cat([torch.randn(50, 4), torch.randn(50, 4) + 100])
    assert mean_average_precision(apart, torch.arange(100) // 50, k=100) == 1


def test_map_without_anything_to_find_says_so():
    with pytest.raises(ValueError, match="nothing to retrieve"):
        mean_average_precision(torch.randn(3, 2), torch.arange(3))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(3,\)"):
        mean_average_precision(torch.randn(3), torch.arange(3))
    lone = mean_average_precision(tensor([[0.0], [1.0], [9.0]]), tensor([0, 0, 1]))
    assert lone == 1  # the sample without others of its class is left out
