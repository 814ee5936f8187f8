"""Bayesian binning into quantiles, one class against the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.calibration.bins import inner_edges
from qact.calibration.calibrator import Calibrator, log_odds, row_normalised
from qact.calibration.registry import register


@register("bbq", paper="Naeini, Cooper and Hauskrecht 2015 (AAAI), eq. 1 to 3")
class BayesianBinning(Calibrator):
    """Average histograms of equal mass by their marginal likelihood, per class, and normalise.

    Histograms of ``B`` bins, ``n^(1/3) / 10`` to ``10 n^(1/3)`` of them. With ``m_b`` of the class
    among ``n_b`` in bin ``b``, a prior ``Beta(alpha_b, beta_b)`` of two samples in all, ``alpha_b =
    2/B p_b`` at the mean probability ``p_b`` of the bin, the evidence is the product of
    ``G(2/B) / G(n_b + 2/B) G(m_b + alpha_b) G(n_b - m_b + beta_b) / (G(alpha_b) G(beta_b))``, and a
    bin's rate ``(m_b + alpha_b) / (n_b + 2/B)``.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).repeat(250, 1)
        >>> labels = torch.tensor([0, 1] * 200 + [1, 0] * 50)  # right in 80%
        >>> BayesianBinning().fit(logits, labels).predict(logits[0]).round(decimals=2)
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """

    def _numbers(self, classes: int) -> int:
        return classes  # an average of histograms is held by its evidence, not by their bins

    def _fit(self, z: Tensor, y: Tensor) -> None:
        s, p = log_odds(z), z.softmax(1)
        root = len(z) ** (1 / 3)
        sizes = range(max(1, int(root / 10)), max(2, int(10 * root) + 1))
        self._models = [
            self._averaged(s[:, c].contiguous(), p[:, c], (y == c).double(), sizes)
            for c in range(z.shape[1])
        ]

    def _averaged(
        self, s: Tensor, p: Tensor, hit: Tensor, sizes: range
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Edges, rates and weight of every histogram that counts."""
        found, seen = [], set()
        for size in sizes:
            edges = inner_edges(s, size, "equal_mass")
            bins = len(edges) + 1
            if bins in seen:  # ties leave fewer bins than were asked for, and the same ones again
                continue
            seen.add(bins)
            index = torch.bucketize(s, edges)
            count, hits = (torch.bincount(index, w, bins) for w in (torch.ones_like(hit), hit))
            middle = torch.bincount(index, p, bins) / count.clamp(min=1)
            prior = 2 / bins
            alpha = (prior * middle).clamp(prior * 1e-6, prior * (1 - 1e-6))
            beta = prior - alpha
            evidence = (
                (torch.lgamma(torch.tensor(prior, dtype=s.dtype)) - (count + prior).lgamma())
                + ((hits + alpha).lgamma() - alpha.lgamma())
                + ((count - hits + beta).lgamma() - beta.lgamma())
            ).sum()
            found.append((edges, (hits + alpha) / (count + prior), evidence))
        weights = torch.stack([evidence for *_, evidence in found]).softmax(0)
        return [
            (edges, rates, weight)
            for (edges, rates, _), weight in zip(found, weights, strict=True)
            if weight > 1e-6
        ]

    def _predict(self, z: Tensor) -> Tensor:
        s = log_odds(z)
        columns = []
        for c, models in enumerate(self._models):
            total = sum(weight for *_, weight in models)
            at = [
                weight * rates[torch.bucketize(s[:, c].contiguous(), edges)]
                for edges, rates, weight in models
            ]
            columns.append(torch.stack(at).sum(0) / total)
        return row_normalised(torch.stack(columns, 1))
