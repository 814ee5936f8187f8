"""Bins of confidences: equal width or equal mass, with counts, means and rates.

- *equal width* (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): bin ``k`` of ``B`` is
  ``(k/B, (k+1)/B]``, the first one closed at 0. A confidence of exactly 1 is in the last bin. An
  edge is the number of the confidences' own dtype that is nearest to ``k/B``: float32 has no 0.1,
  and the confidence that is written 0.1 there has to be on the edge, not above it.
- *equal mass*: edges halfway between neighbouring order statistics, so that bins hold ``N/B``
  samples each. Equal confidences always share a bin (the result cannot depend on the order of the
  samples), therefore ties may leave fewer bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qact import checks

Binning = Literal["equal_width", "equal_mass"]


@dataclass(frozen=True, eq=False)
class Reliability:
    """What a reliability diagram shows, one entry per bin (float64); 0 where ``count`` is 0."""

    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def in_dtype(value: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Return the nearest number of ``dtype``, written in float64: what a widened value is held to.

    Rounding keeps the order, so that ``x <= y`` of real numbers never becomes false by it.

    Example:
        >>> widened = torch.tensor(0.1).double()  # 0.1000000015
        >>> bool(widened <= 0.1), bool(widened <= in_dtype(0.1, torch.float32))
        (False, True)
    """
    return torch.as_tensor(value, dtype=torch.float64).to(dtype).double()


def inner_edges(
    confidence: Tensor, n_bins: int, binning: str, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the edges between bins, at most ``n_bins - 1``, in order, float64.

    ``dtype`` is that in which the confidences (N,) were given, before they were widened to float64.
    """
    if binning == "equal_width":
        steps = torch.arange(1, n_bins, dtype=torch.float64, device=confidence.device)
        return in_dtype(steps / n_bins, dtype)
    if binning == "equal_mass":
        values, counts = confidence.unique(return_counts=True)
        cuts = torch.arange(1, n_bins, device=confidence.device) * len(confidence) // n_bins
        # Which group of equal values the cut falls into; the edge is behind it, whole groups share
        # a bin. Behind the last group there is nothing to part.
        group = torch.searchsorted(counts.cumsum(0), cuts[cuts > 0]).unique()
        group = group[group < len(values) - 1]
        low, high = values[group], values[group + 1]
        # Halfway between two neighbouring floats is one of them: never the upper.
        return torch.where((low + high) / 2 < high, (low + high) / 2, low)
    raise ValueError(f"binning must be 'equal_width' or 'equal_mass', got {binning!r}")


def bin_index(
    confidence: Tensor, n_bins: int, binning: str, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the bin of each confidence, (N,) int64 in 0..n_bins-1; see :func:`inner_edges`."""
    edges = inner_edges(confidence, n_bins, binning, dtype)
    return torch.bucketize(confidence.contiguous(), edges)


def binned(
    confidence: Tensor, hit: Tensor, n_bins: int, binning: str, dtype: torch.dtype = torch.float64
) -> Reliability:
    """Return count, mean confidence and hit rate per bin, of (N,) pairs in float64.

    ``dtype`` is that in which the confidences were given.
    """
    checks.integer("n_bins", n_bins, 1)
    index = bin_index(confidence, n_bins, binning, dtype)
    count = torch.bincount(index, minlength=n_bins).double()
    sums = [torch.bincount(index, weights=v, minlength=n_bins) for v in (confidence, hit)]
    return Reliability(count, *(total / count.clamp(min=1) for total in sums))
