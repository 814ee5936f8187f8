"""Histogram binning, one class against the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.calibration.bins import inner_edges
from qact.calibration.calibrator import Calibrator, log_odds, row_normalised
from qact.calibration.registry import register


@register("histogram", paper="Zadrozny and Elkan 2001")
class HistogramBinning(Calibrator):
    """Replace each class's probability by the frequency of the class in its bin, and normalise.

    Zadrozny and Elkan 2001, "Obtaining calibrated probability estimates from decision trees and
    naive Bayesian classifiers"; bins of equal mass. A bin of ``n_b`` samples with ``k`` of the
    class gives ``(k + 1/2) / (n_b + 1)``, so that none is empty of doubt. The order of classes may
    change.

    Args:
        n_bins: bins per class.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).repeat(250, 1)
        >>> labels = torch.tensor([0, 1] * 200 + [1, 0] * 50)  # right in 80%
        >>> HistogramBinning(5).fit(logits, labels).predict(logits[0]).round(decimals=2)
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = checks.integer("n_bins", n_bins, 1)

    def _numbers(self, classes: int) -> int:
        return self.n_bins * classes

    def _fit(self, z: Tensor, y: Tensor) -> None:
        # Log-odds are in the order of the probabilities, and differ where those round to 0 and 1.
        s = log_odds(z)
        self._bins = [self._frequencies(s[:, c], (y == c).double()) for c in range(s.shape[1])]

    def _frequencies(self, s: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
        edges = inner_edges(s, self.n_bins, "equal_mass")
        index, size = torch.bucketize(s.contiguous(), edges), len(edges) + 1
        count, hits = torch.bincount(index, minlength=size), torch.bincount(index, hit, size)
        return edges, (hits + 0.5) / (count + 1)

    def _predict(self, z: Tensor) -> Tensor:
        s = log_odds(z)
        columns = [
            rates[torch.bucketize(s[:, c].contiguous(), edges)]
            for c, (edges, rates) in enumerate(self._bins)
        ]
        return row_normalised(torch.stack(columns, 1))
