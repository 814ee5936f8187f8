"""Accuracy, likelihood, Brier score and top-label calibration error, in float64.

Every function takes class probabilities ``(N, C)`` of any floating dtype and integer labels
``(N,)``, computes in float64 and returns a Python float. **One estimator serves every method**:
nothing here looks at how many distinct probabilities a method emits (the library behind the paper's
curves does, and so bins quantile probabilities and softmax differently).

Conventions for the calibration error, with ``conf_i = max_c p_ic``, ``hit_i = [argmax_c p_ic =
y_i]`` and bins ``b`` of ``n_b`` samples:

- *equal width* (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): bin ``k`` of ``B`` is
  ``(k/B, (k+1)/B]``, the first one closed at 0. A confidence of exactly 1 is in the last bin.
- *equal mass*: edges halfway between neighbouring order statistics, so that bins hold ``N/B``
  samples each. Equal confidences always share a bin (the result cannot depend on the order of the
  samples), therefore ties may leave fewer bins.
- empty bins contribute nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Binning = Literal["equal_width", "equal_mass"]


def _checked(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``probs`` in float64 and ``labels`` in int64, or say what is wrong with them."""
    if probs.ndim != 2 or probs.shape[0] < 1 or probs.shape[1] < 2:
        raise ValueError(f"probs must be (N, C) with N >= 1, C >= 2, got {tuple(probs.shape)}")
    if labels.shape != probs.shape[:1]:
        raise ValueError(f"labels must be ({probs.shape[0]},), got {tuple(labels.shape)}")
    if not probs.is_floating_point() or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"need floating probs, integer labels; got {probs.dtype}, {labels.dtype}")
    tolerance = probs.shape[1] * max(torch.finfo(probs.dtype).eps, 1e-6)
    wide, y = probs.detach().double(), labels.detach().long()
    if not torch.isfinite(wide).all() or wide.min() < 0 or wide.max() > 1 + tolerance:
        raise ValueError(f"probs must lie in [0, 1], got {wide.min():.4g} to {wide.max():.4g}")
    worst = (wide.sum(1) - 1).abs().max().item()
    if worst > tolerance:
        raise ValueError(f"rows of probs must sum to 1, one is off by {worst:.3g} (logits?)")
    if y.min() < 0 or y.max() >= probs.shape[1]:
        raise ValueError(
            f"labels must be 0..{probs.shape[1] - 1}, got {int(y.min())}..{int(y.max())}"
        )
    return wide, y


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose most probable class is the label; first class on ties.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
        0.5
    """
    wide, y = _checked(probs, labels)
    return (wide.argmax(1) == y).double().mean().item()


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Return ``-(1/N) sum_i ln p_i[y_i]`` in nats; ``inf`` if a true class has probability 0.

    Nothing is clipped: a method that calls the truth impossible is infinitely wrong. From logits,
    build the probabilities in float64 (``logits.double().softmax(1)``) so that none underflows.

    Example:
        >>> import torch
        >>> round(negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([1])), 4)
        0.6931
    """
    wide, y = _checked(probs, labels)
    # + 0.0 turns the -0.0 of a perfect prediction into 0.0.
    return -wide.gather(1, y[:, None]).log().mean().item() + 0.0


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Return ``(1/N) sum_i sum_c (p_ic - [y_i = c])^2``, in [0, 2] (Brier 1950, all classes).

    Example:
        >>> import torch
        >>> brier_score(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0]))
        0.25
    """
    wide, y = _checked(probs, labels)
    return (wide - torch.nn.functional.one_hot(y, wide.shape[1])).square().sum(1).mean().item()


@dataclass(frozen=True, eq=False)
class Reliability:
    """What a reliability diagram shows, one entry per bin (float64); 0 where ``count`` is 0."""

    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def _bin_index(confidence: Tensor, n_bins: int, binning: str) -> Tensor:
    if binning == "equal_width":
        inner = torch.arange(1, n_bins, dtype=torch.float64, device=confidence.device) / n_bins
    elif binning == "equal_mass":
        ordered = confidence.sort().values
        cuts = torch.arange(1, n_bins, device=confidence.device) * len(ordered) // n_bins
        cuts = cuts[cuts > 0].unique()
        inner = ((ordered[cuts - 1] + ordered[cuts]) / 2).unique()
    else:
        raise ValueError(f"binning must be 'equal_width' or 'equal_mass', got {binning!r}")
    return torch.bucketize(confidence, inner)


def reliability(
    probs: Tensor, labels: Tensor, *, n_bins: int = 15, binning: Binning = "equal_width"
) -> Reliability:
    """Return count, mean confidence and accuracy of each confidence bin.

    Args:
        probs: class probabilities ``(N, C)``, any floating dtype.
        labels: true classes ``(N,)``, integer.
        n_bins: number of bins, at least 1.
        binning: ``"equal_width"`` or ``"equal_mass"`` (see the head of this module).

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
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins!r}")
    wide, y = _checked(probs, labels)
    confidence, predicted = wide.max(1)
    index = _bin_index(confidence, n_bins, binning)
    count = torch.bincount(index, minlength=n_bins).double()
    per_bin = [
        torch.bincount(index, weights=values, minlength=n_bins) / count.clamp(min=1)
        for values in (confidence, (predicted == y).double())
    ]
    return Reliability(count, *per_bin)


def calibration_error(
    probs: Tensor,
    labels: Tensor,
    *,
    n_bins: int = 15,
    binning: Binning = "equal_width",
    p: Literal[1, 2] = 1,
    debias: bool = False,
    root: bool = True,
) -> float:
    r"""Return the top-label calibration error by bins.

    With :math:`\bar c_b` the mean confidence and :math:`\bar a_b` the accuracy of bin ``b``::

        plain     (sum_b n_b/N |a_b - c_b|^p)^(1/p)
        debiased  max(0, sum_b n_b/N [ (a_b - c_b)^2 - a_b (1 - a_b)/(n_b - 1) ])^(1/2)

    The plain one with ``p=1`` and bins of equal width is the usual ECE; it is biased upwards, by
    more where bins are small and probabilities mid-range. The debiased one (Kumar, Liang and Ma
    2019, arXiv 1909.10155, section 5; ``p=2`` only) subtracts an unbiased estimate of the variance
    of each bin's accuracy; bins of one sample contribute nothing, as in the authors' library.

    Args:
        probs: class probabilities ``(N, C)``, any floating dtype.
        labels: true classes ``(N,)``, integer.
        n_bins: number of bins.
        binning: ``"equal_width"`` or ``"equal_mass"``.
        p: norm over the bins, 1 or 2.
        debias: use the debiased estimator.
        root: take the ``p``-th root. ``False`` returns the ``p``-th power, which for the debiased
            estimator may be negative and can therefore be averaged without bias from clipping.

    Raises:
        ValueError: as :func:`reliability`; ``p`` is neither 1 nor 2; ``debias`` without ``p=2``.
        TypeError: ``probs`` is not floating or ``labels`` not integer.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.875, 0.125], [0.875, 0.125], [0.25, 0.75], [0.375, 0.625]])
        >>> labels = torch.tensor([0, 0, 1, 0])
        >>> calibration_error(probs, labels, n_bins=4)  # (2 |1 - 0.875| + 2 |0.5 - 0.6875|) / 4
        0.15625
    """
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    if debias and p != 2:
        raise ValueError(f"the debiased estimator is defined for p=2, got p={p!r}")
    bins = reliability(probs, labels, n_bins=n_bins, binning=binning)
    count, hit = bins.count, bins.accuracy
    error = (hit - bins.confidence).abs() ** p
    if debias:
        error = torch.where(count > 1, error - hit * (1 - hit) / (count - 1).clamp(min=1), 0.0)
    power = (count / count.sum() * error).sum().item()
    return max(power, 0.0) ** (1 / p) if root else power
