"""What all calibrators share: ``fit(logits, labels)``, ``predict(logits)``, checks and warnings.

Logits are ``(..., C)`` with any number of leading dimensions, labels ``(...)``; probabilities come
back in float64 with the shape of the logits. A binary problem has two columns: a single score ``s``
for class 1 is ``torch.stack([torch.zeros_like(s), s], -1)``, and softmax of that is the sigmoid.

But for three, no calibrator depends on the unit of two-class logits, or of any logits where it
rescales them itself (temperature, vector, quantile temperature): ``fit(c z + d)`` predicts at ``c z
+ d`` what ``fit(z)`` predicts at ``z``. With more classes the log-odds of the softmax, which the
one-against-the-rest methods read, do depend on ``c``. Beta, Dirichlet and Bayesian binning are maps
of probabilities, which are others in another unit.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from qact import checks
from qact.surgery import lasting

Self = TypeVar("Self", bound="Calibrator")

FEW = 50  # below this, and below 10 samples per fitted number, a fit is warned about


class Calibrator(ABC):
    """Base of the calibrators: subclasses give ``_fit`` and ``_predict`` for (N, C) float64."""

    classes: int | None = None

    @lasting
    def fit(self: Self, logits: Tensor, labels: Tensor) -> Self:
        """Fit on held-out logits (..., C) and labels (...); never on training or test data.

        Warns:
            UserWarning: there are fewer than 50 samples, or than 10 per fitted number.

        Raises:
            ValueError: shapes do not fit, there is no sample, or logits are not finite.
            TypeError: logits are not floating or labels not integer.
        """
        checks.tensors(logits=logits, labels=labels)
        z = _flat(logits)
        if labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"labels must be {tuple(logits.shape[:-1])} for logits (..., C) of shape "
                f"{tuple(logits.shape)}, got {tuple(labels.shape)}"
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        y = labels.detach().reshape(-1).long()
        if not len(z):
            raise ValueError("there is no sample to fit on")
        if y.min() < 0 or y.max() >= z.shape[1]:
            raise ValueError(
                f"labels must be 0..{z.shape[1] - 1}, got {int(y.min())}..{int(y.max())}"
            )
        self.classes = z.shape[1]
        enough = max(FEW, 10 * self._numbers(z.shape[1]))
        if len(z) < enough:
            warnings.warn(
                f"{type(self).__name__} is fitted on {len(z)} samples; take at least {enough}, or "
                "a calibrator with fewer parameters",
                stacklevel=3,
            )
        self._fit(z, y)
        return self

    def predict(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities, float64, in the shape of ``logits`` (..., C)."""
        if self.classes is None:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(logits, labels)")
        z = _flat(logits)
        if z.shape[1] != self.classes:
            raise ValueError(f"logits must have {self.classes} classes, got {tuple(logits.shape)}")
        return self._predict(z).reshape(logits.shape)

    @abstractmethod
    def _numbers(self, classes: int) -> int:
        """How many numbers are fitted."""

    @abstractmethod
    def _fit(self, z: Tensor, y: Tensor) -> None: ...

    @abstractmethod
    def _predict(self, z: Tensor) -> Tensor: ...


def _flat(logits: Tensor) -> Tensor:
    """Return logits as (N, C) float64."""
    checks.tensors(logits=logits)
    if logits.ndim < 1 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits must be (..., C) with C >= 2, got {tuple(logits.shape)}; a binary problem "
            "with one score has two columns: torch.stack([torch.zeros_like(s), s], -1)"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    z = logits.detach().double().reshape(-1, logits.shape[-1])
    if not torch.isfinite(z).all():
        raise ValueError("logits must be finite")
    return z


def unit_of(z: Tensor) -> float:
    """Return the root mean square of logits (N, C) less their mean over classes; 1 if that is 0.

    What bounds, starts and priors are measured in, so that no fit depends on the logits' scale.

    Example:
        >>> unit_of(torch.tensor([[5.0, 1.0], [7.0, 3.0]], dtype=torch.float64))
        2.0
    """
    apart = z - z.mean(1, keepdim=True)
    largest = float(apart.abs().max())  # divided by it, squares can neither overflow nor vanish
    return largest * float((apart / largest).square().mean().sqrt()) if largest else 1.0


def log_odds(z: Tensor) -> Tensor:
    """Return ``ln p_c - ln(1 - p_c)`` of the softmax of (N, C), without forming ``1 - p_c``.

    For two classes that is plus or minus the difference of their logits.
    """
    others = z[:, None, :].expand(-1, z.shape[1], -1)
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    return z - others.masked_fill(itself, -torch.inf).logsumexp(2)


def row_normalised(p: Tensor) -> Tensor:
    """Divide rows by their sums; a row of zeros becomes uniform."""
    total = p.sum(1, keepdim=True)
    return torch.where(total > 0, p / total.where(total > 0, 1), 1 / p.shape[1])
