"""Calibration errors without bins: by sums over pairs, by quadrature, and against relplot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qact.calibration import (
    binary_smooth_calibration_error,
    kernel_calibration_error,
    smooth_calibration_error,
)


def case(n, seed=0, temperature=1.0):
    draw = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, 4, generator=draw, dtype=torch.float64)
    y = torch.multinomial((z / temperature).softmax(1), 1, generator=draw)[:, 0]
    return z.softmax(1), y


def smoothed(f, y, width, points=2000):
    """``int |r_s|`` by images of the Gaussian behind both ends."""
    t = (np.arange(points) + 0.5) / points
    kernel = np.zeros((points, len(f)))
    for image in range(-6, 7):
        for sign in (1, -1):
            gap = t[:, None] - (2 * image + sign * f)
            kernel += np.exp(-((gap / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
    return np.abs(kernel @ (f - y) / len(f)).mean()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_smooth_error_is_its_own_width(temperature):
    probs, labels = case(300, temperature=temperature)
    found = smooth_calibration_error(probs, labels)
    f, predicted = probs.max(1)
    y = (predicted == labels).double()
    assert smoothed(f.numpy(), y.numpy(), found) == pytest.approx(found, abs=1e-3)
    assert found == binary_smooth_calibration_error(f, y)


def test_smooth_error_limits():
    half = torch.full((400,), 0.75)
    hit = (torch.arange(400) < 200).double()
    assert binary_smooth_calibration_error(half, hit) == pytest.approx(0.25, abs=1e-3)
    assert binary_smooth_calibration_error(torch.ones(9), torch.ones(9)) == pytest.approx(
        0, abs=1e-6
    )
    assert binary_smooth_calibration_error(torch.ones(9), torch.zeros(9)) == pytest.approx(
        1, abs=1e-3
    )


def test_kernel_errors_by_loops():
    probs, labels = case(40, temperature=2.0)
    r = torch.eye(4, dtype=torch.float64)[labels] - probs
    total = 0.0
    for i in range(40):
        for j in range(40):
            if i != j:
                k = math.exp(-float((probs[i] - probs[j]).norm()) / 0.7)
                total += k * float(r[i] @ r[j])
    found = kernel_calibration_error(probs, labels, bandwidth=0.7)
    assert found == pytest.approx(total / (40 * 39))
    c, predicted = probs.max(1)
    h = (predicted == labels).double()
    pairs = ((h - c)[:, None] * (h - c) * (-(c[:, None] - c).abs() / 0.4).exp()).mean()
    mmce = kernel_calibration_error(probs, labels, kind="top_label")
    assert mmce == pytest.approx(math.sqrt(pairs))


def test_the_unbiased_error_is_about_zero_where_calibrated():
    found = [kernel_calibration_error(*case(400, seed)) for seed in range(12)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(12)
    assert min(found) < 0 < max(found)
    assert kernel_calibration_error(*case(400, temperature=4.0)) > 10 * np.std(found)


def test_refusals():
    with pytest.raises(ValueError, match="two samples or more"):
        kernel_calibration_error(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="kind must be 'top_label' or 'full', got 'all'"):
        kernel_calibration_error(*case(5), kind="all")
    same = torch.full((4, 2), 0.5)
    assert math.isfinite(kernel_calibration_error(same, torch.tensor([0, 1, 0, 1])))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_relplot(temperature):
    relplot = pytest.importorskip("relplot")
    probs, labels = case(3000, temperature=temperature)
    f, predicted = probs.max(1)
    y = (predicted == labels).double()
    theirs = relplot.smECE(f.numpy(), y.numpy())
    assert binary_smooth_calibration_error(f, y) == pytest.approx(theirs, abs=2e-3)
