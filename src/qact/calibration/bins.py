"""Bins of confidences: equal width or equal mass, with counts, means and rates.

- *equal width* (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): bin ``k`` of ``B`` is
  ``(k/B, (k+1)/B]``, the first one closed at 0. A confidence of exactly 1 is in the last bin.
- *equal mass*: edges halfway between neighbouring order statistics, so that bins hold ``N/B``
  samples each. Equal confidences always share a bin (the result cannot depend on the order of the
  samples), therefore ties may leave fewer bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Binning = Literal["equal_width", "equal_mass"]


@dataclass(frozen=True, eq=False)
class Reliability:
    """What a reliability diagram shows, one entry per bin (float64); 0 where ``count`` is 0."""

    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def inner_edges(confidence: Tensor, n_bins: int, binning: str) -> Tensor:
    """Return the edges between bins, at most ``n_bins - 1``, in order, float64."""
    if binning == "equal_width":
        return torch.arange(1, n_bins, dtype=torch.float64, device=confidence.device) / n_bins
    if binning == "equal_mass":
        ordered = confidence.sort().values
        cuts = torch.arange(1, n_bins, device=confidence.device) * len(ordered) // n_bins
        cuts = cuts[cuts > 0].unique()
        return ((ordered[cuts - 1] + ordered[cuts]) / 2).unique()
    raise ValueError(f"binning must be 'equal_width' or 'equal_mass', got {binning!r}")


def bin_index(confidence: Tensor, n_bins: int, binning: str) -> Tensor:
    """Return the bin of each confidence, (N,) int64 in 0..n_bins-1."""
    return torch.bucketize(confidence.contiguous(), inner_edges(confidence, n_bins, binning))


def binned(confidence: Tensor, hit: Tensor, n_bins: int, binning: str) -> Reliability:
    """Return count, mean confidence and hit rate per bin, of float64 (N,) pairs."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins!r}")
    index = bin_index(confidence, n_bins, binning)
    count = torch.bincount(index, minlength=n_bins).double()
    sums = [torch.bincount(index, weights=v, minlength=n_bins) for v in (confidence, hit)]
    return Reliability(count, *(total / count.clamp(min=1) for total in sums))
