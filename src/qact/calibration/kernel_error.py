"""Calibration errors without bins: smoothed, and by a kernel.

**smECE** (Blasiok and Nakkiran 2023, arXiv 2309.12236, definitions 2 and 3). The residuals ``f_i -
y_i`` of confidences and hits are smoothed over [0, 1] by a Gaussian that is reflected at both ends,
``r_s(t) = 1/n sum_i K_s(t, f_i) (f_i - y_i)``, and ``smECE_s = int |r_s(t)| dt``; the width is the
one that equals its error, ``smECE = s = smECE_s``. The reflected Gaussian is a heat kernel::

    r_s(t) = a_0 + 2 sum_{k >= 1} a_k exp(-(pi k s)^2 / 2) cos(pi k t)
    a_k = 1/n sum_i (f_i - y_i) cos(pi k f_i)

so one set of coefficients serves every width, and no grid of samples is needed.

**MMCE and SKCE** (Kumar et al. 2018; Widmann et al. 2019, arXiv 1910.11385, tables 1 and 2): with
residuals ``r_i`` and a kernel ``k`` of the predictions, the mean of ``r_i . r_j k(p_i, p_j)`` over
pairs. Over all pairs it is biased upwards and a square; over pairs of two it is unbiased.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qact.calibration.checks import checked, checked_pairs
from qact.losses.penalties import mmce

NARROWEST = 1e-3  # width at which an error counts as none
_MESH = 4096
_CHUNK = 512


def smooth_calibration_error(probs: Tensor, labels: Tensor) -> float:
    """Return smECE of the top label, see the head of this module.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25]]).repeat(400, 1)
        >>> round(smooth_calibration_error(probs, torch.arange(400) // 200), 2)  # right in half
        0.25
    """
    wide, y = checked(probs, labels)
    confidence, predicted = wide.max(1)
    return binary_smooth_calibration_error(confidence, predicted == y)


def binary_smooth_calibration_error(confidence: Tensor, hit: Tensor) -> float:
    """Return smECE of confidences (N,) in [0, 1] for events (N,) of 0 and 1."""
    f, y = checked_pairs(confidence, hit)
    t = (torch.arange(_MESH, dtype=f.dtype, device=f.device) + 0.5) / _MESH
    coefficients = torch.empty(0, dtype=f.dtype, device=f.device)

    def error(width: float) -> float:
        nonlocal coefficients
        needed = max(2, math.ceil(8.5 / (math.pi * width)))  # exp(-8.5^2 / 2) is 2e-16
        if needed > len(coefficients):
            k = torch.arange(len(coefficients), needed, dtype=f.dtype, device=f.device)
            more = [(f - y) @ (math.pi * f[:, None] * part).cos() for part in k.split(_CHUNK)]
            coefficients = torch.cat([coefficients, *(part / len(f) for part in more)])
        k = torch.arange(needed, dtype=f.dtype, device=f.device)
        decay = coefficients[:needed] * (-((math.pi * k * width) ** 2) / 2).exp()
        decay[1:] *= 2
        parts = zip(k.split(_CHUNK), decay.split(_CHUNK), strict=True)
        smoothed = sum((math.pi * t[:, None] * part).cos() @ by for part, by in parts)
        return smoothed.abs().mean().item()

    low, high = 0.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        if middle < NARROWEST or error(middle) <= middle:
            high = middle
        else:
            low = middle
    return error(max(high, NARROWEST))


def kernel_calibration_error(
    probs: Tensor, labels: Tensor, *, kind: str = "full", bandwidth: float | None = None
) -> float:
    """Return a kernel calibration error, without bins.

    Args:
        probs: class probabilities (N, C).
        labels: true classes (N,).
        kind: ``"top_label"``, MMCE with ``k = exp(-|a - b| / 0.4)``, at least 0; or ``"full"``, the
            unbiased squared SKCE of all classes with ``k = exp(-|p - q|_2 / bandwidth)``, about 0,
            of either sign, if calibrated.
        bandwidth: of ``"full"``; None for the median distance of two predictions.

    Raises:
        ValueError: one sample has no pairs, or a kind is unknown.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> kernel_calibration_error(probs, torch.tensor([0, 1]))  # (1/4, -1/4) . (-3/4, 3/4)
        -0.375
    """
    wide, y = checked(probs, labels)
    if kind == "top_label":
        confidence, predicted = wide.max(1)
        return mmce(confidence, (predicted == y).double()).clamp(min=0).sqrt().item()
    if kind != "full":
        raise ValueError(f"kind must be 'top_label' or 'full', got {kind!r}")
    if len(y) < 2:
        raise ValueError("the unbiased kernel error needs two samples or more")
    residual = torch.nn.functional.one_hot(y, wide.shape[1]) - wide
    scale = _median_distance(wide) if bandwidth is None else bandwidth
    total = sum(
        float((torch.exp(-torch.cdist(p, wide) / scale) * (r @ residual.T)).sum())
        for p, r in zip(wide.split(_CHUNK), residual.split(_CHUNK), strict=True)
    )
    own = float(residual.square().sum())  # k(p, p) = 1
    return (total - own) / (len(y) * (len(y) - 1))


def _median_distance(p: Tensor) -> float:
    """Of at most a thousand samples, evenly from all; 1 where all are equal."""
    some = p[:: -(-len(p) // 1000)]
    distances = torch.pdist(some)
    return float(distances.median()) or 1.0 if len(distances) else 1.0
