"""The Brier score taken apart: what is miscalibrated, what is told apart, what is by nature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qact import checks
from qact.calibration.bins import Binning, bin_index
from qact.calibration.checks import checked


@dataclass(frozen=True)
class BrierParts:
    """``brier = reliability - resolution + uncertainty + within``, all summed over classes."""

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_decomposition(
    probs: Tensor, labels: Tensor, *, n_bins: int = 15, binning: Binning = "equal_mass"
) -> BrierParts:
    """Return the parts of the Brier score by bins of each class's probability.

    For each class, with ``o = [y = c]``, bins of ``n_b`` samples, mean probability ``p_b`` and
    mean outcome ``o_b`` (Murphy 1973)::

        reliability = sum_b n_b/N (p_b - o_b)^2      0 is best: calibration
        resolution  = sum_b n_b/N (o_b - o)^2        large is best: bins differ in outcome
        uncertainty = o (1 - o)                      the data's own

    These add up to the score if probabilities within a bin are equal. What is left over otherwise,
    ``within = sum_b n_b/N ( Var_b(p) - 2 Cov_b(p, o) )`` (Stephenson, Coelho and Jolliffe 2008), is
    returned too, so that the four always add up exactly.

    Args:
        probs: class probabilities (N, C), any floating dtype.
        labels: true classes (N,), integer.
        n_bins: bins per class.
        binning: ``"equal_mass"`` or ``"equal_width"``.

    Raises:
        ValueError, TypeError: as :func:`qact.calibration.reliability`.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
        >>> brier_decomposition(probs, torch.tensor([0, 0, 1, 0]))
        BrierParts(reliability=0.125, resolution=0.125, uncertainty=0.375, within=0.0)
    """
    wide, y = checked(probs, labels)
    checks.integer("n_bins", n_bins, 1)
    per_class = []
    for c in range(wide.shape[1]):
        index = bin_index(wide[:, c], n_bins, binning, probs.dtype)
        per_class.append(_parts(wide[:, c], (y == c).double(), index, n_bins))
    return BrierParts(*torch.stack(per_class).sum(0).tolist())


def _parts(p: Tensor, o: Tensor, index: Tensor, n_bins: int) -> Tensor:

    def mean(values: Tensor) -> Tensor:
        return torch.bincount(index, values, minlength=n_bins) / count.clamp(min=1)

    count = torch.bincount(index, minlength=n_bins).double()
    p_b, o_b = mean(p), mean(o)
    share = count / len(p)
    variance = mean((p - p_b[index]).square())
    covariance = mean((p - p_b[index]) * (o - o_b[index]))
    parts = [
        (share * (p_b - o_b).square()).sum(),
        (share * (o_b - o.mean()).square()).sum(),
        o.mean() * (1 - o.mean()),
        (share * (variance - 2 * covariance)).sum(),
    ]
    return torch.stack(parts)
