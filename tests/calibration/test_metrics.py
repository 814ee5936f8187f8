import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from qact.calibration import (
    accuracy,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability,
)

ALL = [accuracy, negative_log_likelihood, brier_score, calibration_error, reliability]


def random_case(n, classes, seed=0, sharp=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return logits.softmax(1), labels


def calibrated(n, seed=0, classes=4):
    """Labels drawn from the very probabilities that are predicted."""
    probs, _ = random_case(n, classes, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return probs, torch.multinomial(probs, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("bins", [1, 5, 15, 100])
@pytest.mark.parametrize("n", [1, 2, 97, 5000])
def test_plain_equal_width_equals_torchmetrics(n, bins, p):
    oracle = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = random_case(n, 7)
    expected = oracle.multiclass_calibration_error(
        probs, labels, num_classes=7, n_bins=bins, norm=f"l{p}"
    )
    found = calibration_error(probs, labels, n_bins=bins, p=p)
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_brier_and_nll_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    probs, labels = random_case(300, 5)
    expected = metrics.log_loss(labels, probs, labels=list(range(5)))
    assert negative_log_likelihood(probs, labels) == pytest.approx(expected, abs=1e-12)
    one_hot = torch.nn.functional.one_hot(labels, 5)
    assert brier_score(probs, labels) == pytest.approx(
        5 * metrics.mean_squared_error(one_hot, probs), abs=1e-12
    )


def debiased_by_the_book(probs, labels, bins):
    """Kumar et al. 2019, section 5, written with loops; distinct confidences."""
    pairs = sorted(
        (float(row.max()), int(row.argmax()) == int(y))
        for row, y in zip(probs, labels, strict=True)
    )
    n, total = len(pairs), 0.0
    for k in range(bins):
        part = pairs[k * n // bins : (k + 1) * n // bins]
        if len(part) < 2:
            continue
        confidence = math.fsum(c for c, _ in part) / len(part)
        hit = sum(h for _, h in part) / len(part)
        total += len(part) / n * ((hit - confidence) ** 2 - hit * (1 - hit) / (len(part) - 1))
    return total


@pytest.mark.parametrize(("n", "bins"), [(10, 3), (100, 15), (1001, 15), (7, 15)])
def test_debiased_equals_the_formula_in_loops(n, bins):
    probs, labels = random_case(n, 4, seed=n)
    found = calibration_error(
        probs, labels, n_bins=bins, binning="equal_mass", p=2, debias=True, root=False
    )
    assert found == pytest.approx(debiased_by_the_book(probs, labels, bins), abs=1e-12)


def test_debiased_error_of_calibrated_predictions_is_zero_on_average():
    options = {"binning": "equal_mass", "p": 2, "root": False}
    plain, debiased = [], []
    for seed in range(200):
        probs, labels = calibrated(500, seed)
        plain.append(calibration_error(probs, labels, **options))
        debiased.append(calibration_error(probs, labels, **options, debias=True))
    mean = sum(debiased) / len(debiased)
    spread = torch.tensor(debiased).std().item() / math.sqrt(len(debiased))
    assert abs(mean) < 3 * spread  # zero within its own error ...
    assert sum(plain) / len(plain) > 20 * spread  # ... where the plain estimator is not


def test_a_known_miscalibration_is_found():
    # Confidence 0.9, right in 60% of the cases: the error is 0.3 whatever p and the bins.
    probs = tensor([[0.9, 0.1]], dtype=torch.float64).repeat(10_000, 1)
    labels = (torch.arange(10_000) % 10 >= 6).long()
    for options in ({}, {"p": 2}, {"p": 2, "binning": "equal_mass", "debias": True}):
        assert calibration_error(probs, labels, **options) == pytest.approx(0.3, abs=1e-4)


def test_bins_by_hand():
    probs = tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0], [1.0, 0.0]])
    labels = tensor([0, 0, 1, 1])
    bins = reliability(probs, labels, n_bins=4)
    assert bins.count.tolist() == [0, 1, 1, 2]  # 0.5 belongs to (0.25, 0.5], 1 to the last
    assert bins.confidence.tolist() == [0, 0.5, 0.75, 1]
    assert bins.accuracy.tolist() == [0, 1, 0, 0.5]
    assert calibration_error(probs, labels, n_bins=4) == (0.5 + 0.75 + 2 * 0.5) / 4


def test_equal_mass_shares_samples_evenly():
    probs, labels = random_case(1000, 3)
    counts = reliability(probs, labels, n_bins=7, binning="equal_mass").count
    assert counts.sum() == 1000
    assert set(counts.tolist()) <= {142.0, 143.0}


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_certainty_and_one_sample_are_fine(binning):
    sure, y = tensor([[0.0, 1.0, 0.0]]), tensor([1])
    options = {"binning": binning}
    assert calibration_error(sure, y, **options) == 0
    assert calibration_error(sure, tensor([0]), **options) == 1
    # One sample says nothing about the variance of its bin: it contributes nothing.
    assert calibration_error(sure, tensor([0]), p=2, debias=True, **options) == 0
    assert negative_log_likelihood(sure, y) == 0
    assert negative_log_likelihood(sure, tensor([0])) == math.inf
    assert brier_score(sure, tensor([0])) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("metric", ALL[:4])
def test_narrow_floats_are_widened_first(metric, dtype):
    probs, labels = random_case(400, 10)
    narrow = probs.to(dtype)
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-6}[dtype]
    assert metric(narrow, labels) == pytest.approx(metric(probs, labels), abs=tolerance)
    assert isinstance(metric(narrow, labels), float)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 10**6), st.booleans())
def test_order_of_samples_is_irrelevant_and_ranges_hold(n, classes, seed, tied):
    probs, labels = random_case(n, classes, seed)
    if tied:  # many equal confidences
        probs = (probs * 8).round().clamp(min=1)
        probs = probs / probs.sum(1, keepdim=True)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for options in ({}, {"binning": "equal_mass", "p": 2, "debias": True}):
        value = calibration_error(probs, labels, **options)
        assert 0 <= value <= 1
        again = calibration_error(probs[shuffled], labels[shuffled], **options)
        assert value == pytest.approx(again, abs=1e-9)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("probs", "labels", "error", "message"),
    [
        (torch.rand(3), tensor([0, 1, 0]), ValueError, r"\(N, C\).*got \(3,\)"),
        (torch.zeros(0, 2), tensor([], dtype=torch.long), ValueError, r"got \(0, 2\)"),
        (torch.ones(2, 1), tensor([0, 0]), ValueError, r"got \(2, 1\)"),
        (torch.full((2, 2), 0.5), tensor([0]), ValueError, r"labels must be \(2,\), got \(1,\)"),
        (torch.full((2, 2), 0.5), tensor([0, 2]), ValueError, r"0\.\.1, got 0\.\.2"),
        (torch.full((1, 2), 0.5), tensor([-1]), ValueError, r"got -1\.\.-1"),
        (tensor([[3.0, -2.0]]), tensor([0]), ValueError, r"lie in \[0, 1\], got 3 "),
        (tensor([[0.5, 0.6]]), tensor([0]), ValueError, r"sum to 1, one is off by 0\.1"),
        (tensor([[math.nan, 1.0]]), tensor([0]), ValueError, "nan"),
        (tensor([[0, 1]]), tensor([0]), TypeError, "torch.int64"),
        (torch.full((1, 2), 0.5), tensor([0.0]), TypeError, "torch.float32"),
    ],
)
def test_bad_input_is_named(metric, probs, labels, error, message):
    with pytest.raises(error, match=message):
        metric(probs, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 3}, "p must be 1, 2 or 'max', got 3"),
        ({"debias": True}, "debiased estimator is defined for p=2, got p=1"),
        ({"n_bins": 0}, "n_bins=0 must be at least 1"),
        ({"binning": "quantile"}, "got 'quantile'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(torch.full((1, 2), 0.5), tensor([0]), **options)
