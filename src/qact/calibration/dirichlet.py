"""Dirichlet calibration and matrix scaling: a linear map of log-probabilities or logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qact import checks
from qact.calibration.calibrator import Calibrator, unit_of
from qact.calibration.minimize import minimize
from qact.calibration.registry import register


@register("matrix", paper="Guo et al. 2017, arXiv 1706.04599, sec. 4.2; ODIR: arXiv 1910.12656")
class MatrixScaling(Calibrator):
    """Fit ``softmax(W z + b)``, held to the diagonal: the order of the classes may change.

    The penalty of Kull et al. 2019 (sec. 4, ODIR) is on what lies off the diagonal, ``lam / (C (C -
    1)) sum W_ij^2``, and on the intercept, ``mu / C sum b^2``, beside the mean likelihood, logits
    taken about their mean over classes in units of their spread. Without it ``C^2 + C`` numbers
    overfit.

    Args:
        lam: weight of the penalty on what stands beside the diagonal.
        mu: weight of that on the intercept.

    Attributes:
        weight: ``W`` (C, C), in those units.
        bias: ``b`` (C,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, lam: float = 0.01, mu: float = 0.01) -> None:
        self.lam = checks.number("lam", lam, "a positive number", 0)
        self.mu = checks.number("mu", mu, "a positive number", 0)

    def _numbers(self, classes: int) -> int:
        return classes * (classes + 1)

    def _fit(self, z: Tensor, y: Tensor) -> None:
        self._unit = unit_of(z)
        x, classes = self._features(z), z.shape[1]
        off = 1 - torch.eye(classes, dtype=z.dtype, device=z.device)

        def loss(values: Tensor) -> Tensor:
            W, b = values[:, :-1], values[:, -1]
            odir = self.lam * (W * off).square().sum() / (classes * (classes - 1))
            # A slight pull to one on the diagonal keeps a fit of separable samples finite.
            prior = (W.diagonal() - 1).square().sum() / (2 * len(z))
            return cross_entropy(x @ W.T + b, y) + odir + self.mu * b.square().mean() + prior

        start = torch.cat([1 - off, z.new_zeros(classes, 1)], 1)
        found = minimize(loss, start)
        self.weight, self.bias = found[:, :-1], found[:, -1]

    def _features(self, z: Tensor) -> Tensor:
        return (z - z.mean(1, keepdim=True)) / self._unit

    def _predict(self, z: Tensor) -> Tensor:
        return (self._features(z) @ self.weight.T + self.bias).softmax(1)


@register("dirichlet", paper="Kull et al. 2019, arXiv 1910.12656, sec. 3 and 4")
class DirichletCalibration(MatrixScaling):
    """Fit ``softmax(W ln p + b)``: the posterior of one Dirichlet density per class.

    Penalties as :class:`MatrixScaling`. Unlike that it depends on the probabilities alone.
    """

    def _features(self, z: Tensor) -> Tensor:
        return z.log_softmax(1)
