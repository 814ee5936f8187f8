import itertools

import pytest
import torch
from torch import tensor

from qact.calibration import (
    area_under_generalized_risk,
    area_under_risk_coverage,
    cascade,
    cascade_threshold,
    coverage_at_risk,
    deferral_curve,
    mean_average_precision,
    risk_at_coverage,
    risk_coverage,
)


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


def test_generalized_risk_by_loops():
    probs = torch.randn(60, 3, dtype=torch.float64).softmax(1)
    labels = torch.randint(3, (60,))
    order = probs.amax(1).argsort(descending=True)
    wrong = (probs.argmax(1) != labels)[order].double()
    right = (wrong.cumsum(0) / 60).mean()
    assert area_under_generalized_risk(probs, labels) == pytest.approx(float(right))
    flat = torch.tensor([[0.75, 0.25]]).repeat(100, 1)  # says nothing: half of the error rate
    found = area_under_generalized_risk(flat, (torch.arange(100) < 20).long())
    assert found == pytest.approx(0.1 * 101 / 100)


def test_coverage_at_risk_and_back():
    hit = torch.tensor([1, 1, 0, 1, 0, 0])
    scores = torch.arange(6.0)  # a score of qact.scores: larger is less sure
    assert coverage_at_risk(-scores, hit, 0.0) == pytest.approx(2 / 6)
    assert coverage_at_risk(-scores, hit, 0.3) == pytest.approx(4 / 6)
    assert coverage_at_risk(scores, hit, 0.3) == 0.0
    assert coverage_at_risk(scores, hit, 1.0) == 1.0
    assert risk_at_coverage(-scores, hit, 0.5) == pytest.approx(1 / 3)
    assert risk_at_coverage(-scores, hit, 1e-9) == 0
    with pytest.raises(ValueError, match="must not hold NaN"):
        coverage_at_risk(torch.tensor([torch.nan]), torch.tensor([1]), 0.1)
    with pytest.raises(ValueError, match="N >= 1"):
        risk_at_coverage(torch.empty(0), torch.empty(0), 0.5)


def cascade_case(n=500):
    z = torch.randn(n, 3, dtype=torch.float64)
    labels = torch.multinomial(z.softmax(1), 1)[:, 0]
    better = torch.nn.functional.one_hot(labels, 3) * 0.5 + torch.full((n, 3), 1 / 6)
    worse = better.roll(1, 1)
    good = torch.rand(n, 1) < 0.8
    return z.softmax(1), torch.where(good, better, worse), labels


def test_cascades_never_and_always_defer():
    first, second, labels = cascade_case()
    never, always = cascade(first, second, 0.0), cascade(first, second, 1.01)
    assert torch.equal(never[0], first)
    assert not never[1].any()
    assert torch.equal(always[0], second)
    assert always[1].all()
    share, accuracy = deferral_curve(first, second, labels)
    assert share[[0, -1]].tolist() == [0, 1]
    ends = [(p.argmax(1) == labels).double().mean().item() for p in (first, second)]
    assert accuracy[[0, -1]].tolist() == pytest.approx(ends)
    with pytest.raises(ValueError, match="do not fit"):
        cascade(first, second[:3], 0.5)


def test_nothing_defers_better_than_what_knows_the_gain():
    first, second, labels = cascade_case()
    gain = (second.argmax(1) == labels).double() - (first.argmax(1) == labels).double()
    best = deferral_curve(first, second, labels, doubt=gain)[1]
    assert (best >= deferral_curve(first, second, labels)[1] - 1e-9).all()
    # Where the second is right everywhere, whoever knows where the first errs knows the gain.
    perfect = torch.nn.functional.one_hot(labels, 3).double()
    wrong = (first.argmax(1) != labels).double()
    by_gain = deferral_curve(first, perfect, labels, doubt=wrong)[1]
    assert by_gain.max() == 1
    with pytest.raises(ValueError, match="without NaN"):
        deferral_curve(first, second, labels, doubt=gain * torch.nan)


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5, 1.0])
def test_the_threshold_keeps_the_budget_and_is_the_best_within(budget):
    first, second, labels = cascade_case()
    threshold = cascade_threshold(first, second, labels, budget)
    probs, deferred = cascade(first, second, threshold)
    assert deferred.double().mean() <= budget
    share, accuracy = deferral_curve(first, second, labels)
    reached = (probs.argmax(1) == labels).double().mean()
    assert reached == pytest.approx(accuracy[share <= budget].max())
