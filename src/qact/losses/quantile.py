"""Losses whose minimiser is a quantile, and one that keeps every sample below a bound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.registry import register
from qact.losses.rows import REDUCTIONS


def quantile_huber_loss(
    quantiles: Tensor,
    target: Tensor,
    *,
    levels: Tensor | float = 0.5,
    kappa: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Return ``|tau - [d < 0]| H(d) / kappa``, ``d = target - quantile``, ``H`` Huber's function.

    ``H(d) = d^2 / 2`` up to ``kappa`` and ``kappa (|d| - kappa / 2)`` beyond (Dabney et al. 2018,
    arXiv 1806.06923, of IQN). At ``kappa`` 0 it is the pinball loss ``|tau - [d < 0]| |d|``,
    whose minimiser is the ``tau``-quantile; at ``tau = 1/2`` half of Huber's loss over ``kappa``.

    Args:
        quantiles: predictions, any shape, floating.
        target: what is predicted; it broadcasts against ``quantiles``.
        levels: ``tau``, in (0, 1); a number or a tensor that broadcasts.
        kappa: at least 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: shapes that do not fit, a level beyond (0, 1), a negative ``kappa``.

    Example:
        >>> quantile_huber_loss(torch.tensor([0.0]), torch.tensor([2.0]), levels=0.9, kappa=0.0)
        tensor(1.8000)
    """
    checks.choice("reduction", reduction, REDUCTIONS)
    checks.within("kappa", kappa, 0)
    tau = torch.as_tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    if not ((tau > 0) & (tau < 1)).all():
        raise ValueError(f"levels={levels!r} must be in (0, 1)")
    try:
        d = target - quantiles
    except RuntimeError:
        raise ValueError(
            f"target of shape {tuple(target.shape)} must broadcast against quantiles of shape "
            f"{tuple(quantiles.shape)}"
        ) from None
    size = d.abs()
    if kappa:
        inner = size.clamp_max(kappa)
        size = inner * (size - inner / 2) / kappa
    found = (tau - (d.detach() < 0).to(tau.dtype)).abs() * size
    return found if reduction == "none" else getattr(found, reduction)()


@register("quantile_huber", paper="Dabney et al. 2018, arXiv 1806.06923", of="values")
class QuantileHuberLoss(nn.Module):
    """:func:`quantile_huber_loss` as a module.

    Example:
        >>> QuantileHuberLoss(levels=0.5)(torch.zeros(1), torch.ones(1))
        tensor(0.2500)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        quantile_huber_loss(torch.zeros(1), torch.zeros(1), **options)

    def forward(self, quantiles: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return quantile_huber_loss(quantiles, target, **self.options)


@register("feasible", paper="Ramirez et al. 2025, arXiv 2501.14912", of="values")
class FeasibleLearning(nn.Module):
    """Find a network whose loss is at most ``bound`` on *every* sample: a multiplier for each.

    Takes the losses of a batch, one by one, and which samples they are; returns ``mean_i l_i
    loss_i``, and in training raises the multipliers first, ``l_i <- max(0, l_i + rate (loss_i -
    bound - slack l_i))``. Those of satisfied samples decay to 0. With ``slack`` (one over the
    paper's alpha) every bound may be passed at a quadratic price.

    Args:
        samples: of the training set.
        bound: at least 0.
        rate: of the multipliers, at least 0; 0 keeps them at their start: plain training.
        slack: at least 0.
        start: of every multiplier.

    Raises:
        ValueError: ``slack``, ``start``, ``samples``, ``bound`` or ``rate`` is not as described;
            shapes do not fit.

    Example:
        >>> loss = FeasibleLearning(3, bound=0.5, rate=1.0)
        >>> loss(torch.tensor([2.0, 0.1]), torch.tensor([0, 2])), loss.multipliers
        (tensor(2.5300), tensor([2.5000, 1.0000, 0.6000]))
    """

    multipliers: Tensor

    def __init__(
        self,
        samples: int,
        *,
        bound: float = 0.1,
        rate: float = 0.1,
        slack: float = 0.0,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        self.bound, self.rate = checks.within("bound", bound, 0), checks.within("rate", rate, 0)
        self.slack = checks.within("slack", slack, 0)
        start = checks.within("start", start, 0)
        count = checks.integer("samples", samples, 1)
        self.register_buffer("multipliers", torch.full((count,), start))

    def forward(self, losses: Tensor, index: Tensor) -> Tensor:
        """Return the weighted mean of losses (N,) of the samples ``index`` (N,)."""
        if losses.ndim != 1 or losses.shape != index.shape:
            raise ValueError(
                "losses and index must be (N,), with reduction='none', got "
                f"{tuple(losses.shape)} and {tuple(index.shape)}"
            )
        held = self.multipliers[index]
        if self.training:
            excess = losses.detach().to(held.dtype) - self.bound - self.slack * held
            held = (held + self.rate * excess).clamp_min_(0)
            self.multipliers[index] = held
        return (held * losses).mean()
