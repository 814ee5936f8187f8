import copy

import pytest
import torch

from qact import calibration

torchmetrics = pytest.importorskip("torchmetrics")

from qact.calibration import torchmetric as ours  # noqa: E402

METRICS = {
    "error": (
        lambda: ours.CalibrationError("marginal", 10, "equal_mass", 2, True),
        lambda p, y: calibration.calibration_error(
            p, y, kind="marginal", n_bins=10, binning="equal_mass", p=2, debias=True
        ),
    ),
    "adaptive": (ours.AdaptiveCalibrationError, calibration.adaptive_calibration_error),
    "nll": (ours.NegativeLogLikelihood, calibration.negative_log_likelihood),
    "brier": (ours.BrierScore, calibration.brier_score),
    "aurc": (ours.AreaUnderRiskCoverage, calibration.area_under_risk_coverage),
}


def case(n=200):
    return torch.randn(n, 4).softmax(1), torch.randint(4, (n,))


@pytest.mark.parametrize("name", METRICS)
def test_batches_give_what_the_whole_gives(name):
    make, function = METRICS[name]
    metric, (probs, labels) = make(), case()
    for part in zip(probs.split(37), labels.split(37), strict=True):
        metric.update(*part)
    assert metric.compute().item() == pytest.approx(function(probs, labels), abs=1e-6)
    metric.reset()
    assert metric(probs[:50], labels[:50]).item() == pytest.approx(
        function(probs[:50], labels[:50]), abs=1e-6
    )


def test_two_metrics_merge_as_over_two_processes():
    probs, labels = case()
    whole, one = ours.CalibrationError(), ours.CalibrationError()
    two = copy.deepcopy(one)
    whole.update(probs, labels)
    one.update(probs[:80], labels[:80])
    two.update(probs[80:], labels[80:])
    one.merge_state(two)
    assert one.compute() == whole.compute()


def test_they_live_in_a_collection_beside_those_of_torchmetrics():
    probs, labels = case()
    both = torchmetrics.MetricCollection(
        {
            "ours": ours.CalibrationError(),
            "theirs": torchmetrics.classification.MulticlassCalibrationError(4, norm="l1"),
        }
    )
    found = both(probs, labels)
    assert found["ours"].item() == pytest.approx(found["theirs"].item(), abs=1e-6)
