r"""Calibration errors: top-label, marginal, adaptive; any of them plain or debiased.

**One estimator serves every method**: nothing here looks at how many distinct probabilities a
method emits (the library behind the paper's curves does, and so bins quantile probabilities and
softmax differently).

Given pairs of a confidence and a hit (0 or 1) in bins ``b`` of ``n_b`` samples, with mean
confidence ``c_b`` and hit rate ``a_b`` (:mod:`qact.calibration.bins`; empty bins contribute
nothing)::

    plain, p = 1 or 2   E = sum_b n_b/N |a_b - c_b|^p
    plain, p = "max"    E = max_b |a_b - c_b|
    debiased, p = 2     E = sum_b n_b/N [ (a_b - c_b)^2 - a_b (1 - a_b) / (n_b - 1) ]

Top-label pairs are ``(max_c p_ic, [argmax_c p_ic = y_i])``. Marginal pairs are, for each class,
``(p_ic, [y_i = c])``, and ``E`` is the mean over classes (the maximum for ``p = "max"``). The error
is ``E^(1/p)``. (Kumar, Liang and Ma 2019, arXiv 1909.10155: definitions 2.2 and 2.3, and section 5
for the debiased estimator.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qact.calibration.bins import Binning, Reliability, binned
from qact.calibration.checks import checked, checked_pairs

Kind = Literal["top_label", "marginal"]
Norm = Literal[1, 2, "max"]


def reliability(
    probs: Tensor, labels: Tensor, *, n_bins: int = 15, binning: Binning = "equal_width"
) -> Reliability:
    """Return count, mean confidence and accuracy of each confidence bin.

    Args:
        probs: class probabilities ``(N, C)``, any floating dtype.
        labels: true classes ``(N,)``, integer.
        n_bins: number of bins, at least 1.
        binning: ``"equal_width"`` or ``"equal_mass"`` (see :mod:`qact.calibration.bins`).

    Returns:
        ``count``, ``confidence`` and ``accuracy``, float64 ``(n_bins,)``; bins of equal
        mass that ties left over are empty.

    Raises:
        ValueError: shapes, ranges, row sums, ``n_bins`` or ``binning`` are not as described.
        TypeError: ``probs`` is not floating or ``labels`` not integer.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]])
        >>> reliability(probs, torch.tensor([0, 1, 0]), n_bins=2).accuracy
        tensor([0.0000, 0.6667], dtype=torch.float64)
    """
    return binned(*_top_label(*checked(probs, labels)), n_bins, binning, probs.dtype)


def calibration_error(
    probs: Tensor,
    labels: Tensor,
    *,
    kind: Kind = "top_label",
    n_bins: int = 15,
    binning: Binning = "equal_width",
    p: Norm = 1,
    debias: bool = False,
    root: bool = True,
) -> float:
    r"""Return the top-label or marginal calibration error by bins.

    See the head of this module. The plain top-label error with ``p=1`` and bins of equal width is
    the usual ECE; it is biased upwards, by more where bins are small and probabilities mid-range.
    The debiased one (``p=2`` only) subtracts an unbiased estimate of the variance of each bin's
    hit rate; bins of one sample contribute nothing, as in the authors' library.

    Args:
        probs: class probabilities ``(N, C)``, any floating dtype.
        labels: true classes ``(N,)``, integer.
        kind: ``"top_label"`` or ``"marginal"`` (class-wise).
        n_bins: number of bins.
        binning: ``"equal_width"`` or ``"equal_mass"``.
        p: norm over the bins, 1, 2 or ``"max"``.
        debias: use the debiased estimator.
        root: take the ``p``-th root. ``False`` returns the ``p``-th power, which for the debiased
            estimator may be negative and can therefore be averaged without bias from clipping.

    Raises:
        ValueError: as :func:`reliability`; ``kind`` or ``p`` is unknown; ``debias`` without
            ``p=2``.
        TypeError: ``probs`` is not floating or ``labels`` not integer.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.875, 0.125], [0.875, 0.125], [0.25, 0.75], [0.375, 0.625]])
        >>> labels = torch.tensor([0, 0, 1, 0])
        >>> calibration_error(probs, labels, n_bins=4)  # (2 |1 - 0.875| + 2 |0.5 - 0.6875|) / 4
        0.15625
    """
    _check_norm(p, debias)
    wide, y = checked(probs, labels)
    if kind == "top_label":
        pairs = [_top_label(wide, y)]
    elif kind == "marginal":
        pairs = [(wide[:, c], (y == c).double()) for c in range(wide.shape[1])]
    else:
        raise ValueError(f"kind must be 'top_label' or 'marginal', got {kind!r}")
    errors = [_power(binned(*pair, n_bins, binning, probs.dtype), p, debias) for pair in pairs]
    return _rooted(max(errors) if p == "max" else sum(errors) / len(errors), p, root)


def binary_calibration_error(
    confidence: Tensor,
    hit: Tensor,
    *,
    n_bins: int = 15,
    binning: Binning = "equal_width",
    p: Norm = 1,
    debias: bool = False,
    root: bool = True,
) -> float:
    """Return the calibration error of confidences (N,) in [0, 1] for events (N,) of 0 and 1.

    The same estimator as :func:`calibration_error`, for what is no row of probabilities: one
    class against the rest, or a quantile level that is read as a confidence.

    Example:
        >>> import torch
        >>> binary_calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([1, 0]))
        0.25
    """
    _check_norm(p, debias)
    pairs = checked_pairs(confidence, hit)
    bins = binned(*pairs, n_bins, binning, confidence.dtype)
    return _rooted(_power(bins, p, debias), p, root)


def adaptive_calibration_error(probs: Tensor, labels: Tensor, *, n_ranges: int = 15) -> float:
    """Return the adaptive calibration error, ``1/(K R) sum_k sum_r |a_rk - c_rk|``.

    Nixon et al. 2019 (arXiv 1904.01685), eq. 3: for each class ``k`` the samples in ``R`` ranges of
    equal mass of ``p_k``; ``a_rk`` is the share of class ``k`` in a range, ``c_rk`` its mean
    ``p_k``. Ties may leave fewer ranges (equal probabilities share one): the mean is over those.
    It is the marginal error with ``p=1`` and equal mass, but for ranges of unequal size.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> adaptive_calibration_error(probs, torch.tensor([0, 1]), n_ranges=1)
        0.125
    """
    wide, y = checked(probs, labels)
    means = []
    for c in range(wide.shape[1]):
        bins = binned(wide[:, c], (y == c).double(), n_ranges, "equal_mass")
        means.append((bins.accuracy - bins.confidence).abs()[bins.count > 0].mean())
    return torch.stack(means).mean().item()


def _top_label(wide: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    confidence, predicted = wide.max(1)
    return confidence, (predicted == y).double()


def _power(bins: Reliability, p: Norm, debias: bool) -> float:
    """Return ``E`` of the head of this module."""
    count, hit = bins.count, bins.accuracy
    gap = (hit - bins.confidence).abs()
    if p == "max":
        return gap.max().item()
    error = gap**p
    if debias:
        error = torch.where(count > 1, error - hit * (1 - hit) / (count - 1).clamp(min=1), 0.0)
    return (count / count.sum() * error).sum().item()


def _rooted(power: float, p: Norm, root: bool) -> float:
    return max(power, 0.0) ** (1 / p) if root and p != "max" else power


def _check_norm(p: Norm, debias: bool) -> None:
    if p not in (1, 2, "max"):
        raise ValueError(f"p must be 1, 2 or 'max', got {p!r}")
    if debias and p != 2:
        raise ValueError(f"the debiased estimator is defined for p=2, got p={p!r}")
