"""Density-aware scaling: a temperature that grows with the distance to the training data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from qact.calibration.calibrator import unit_of
from qact.calibration.minimize import minimize


class DensityAwareScaling:
    """Fit ``softmax(z / S)``, ``S = w_0 + sum_l w_l d_l`` with distances ``d_l`` of each sample.

    Tomani et al. 2023 (arXiv 2302.05118, eq. 5 and 6): ``d_l`` says how far a sample lies from the
    training data in layer ``l``, so that confidence falls off them; all ``w >= 0``, by likelihood.
    One score of :mod:`qact.scores` is one distance: ``qact.scores.KNN`` is the paper's. The order
    of the classes never changes.

    Attributes:
        weights: ``w`` (1 + L,), in the unit of the logits.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> far = (torch.arange(2000) % 2).double()
        >>> z = 4 * torch.randn(2000, 3, generator=draw, dtype=torch.float64)
        >>> labels = torch.multinomial((z / (1 + 3 * far[:, None])).softmax(1), 1, generator=draw)
        >>> DensityAwareScaling().fit(z, labels[:, 0], far).weights.round()  # 1, and 3 more if far
        tensor([1., 3.], dtype=torch.float64)
    """

    weights: Tensor

    def fit(self, logits: Tensor, labels: Tensor, distances: Tensor) -> DensityAwareScaling:
        """Fit on held-out logits (N, C), labels (N,) and distances (N,) or (N, L), at least 0."""
        z, d = logits.detach().double(), self._checked(logits, distances)
        unit = unit_of(z)
        spread = d.mean(0).where(d.mean(0) > 0, 1.0)

        def loss(raw: Tensor) -> Tensor:
            S = self._scale(softplus(raw), d / spread)
            # A slight prior: on separable samples the least temperature is the likeliest.
            return cross_entropy(z / unit / S[:, None], labels) + raw.square().sum() / (2 * len(z))

        found = softplus(minimize(loss, torch.zeros(1 + d.shape[1], dtype=z.dtype)))
        self.weights = unit * torch.cat([found[:1], found[1:] / spread])
        return self

    def predict(self, logits: Tensor, distances: Tensor) -> Tensor:
        """Return calibrated probabilities (N, C), float64."""
        if not hasattr(self, "weights"):
            raise RuntimeError("there are no weights yet; call fit(logits, labels, distances)")
        d = self._checked(logits, distances)
        return (logits.detach().double() / self._scale(self.weights, d)[:, None]).softmax(1)

    def _scale(self, weights: Tensor, d: Tensor) -> Tensor:
        return weights[0] + d @ weights[1:]

    def _checked(self, logits: Tensor, distances: Tensor) -> Tensor:
        d = distances.detach().double()
        d = d[:, None] if d.ndim == 1 else d
        if logits.ndim != 2 or d.ndim != 2 or len(d) != len(logits) or not (d >= 0).all():
            raise ValueError(
                "logits must be (N, C) and distances (N,) or (N, L), at least 0, got "
                f"{tuple(logits.shape)} and {tuple(distances.shape)}"
            )
        return d
