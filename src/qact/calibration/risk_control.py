"""Conformal risk control, exchangeable and not: a bound on any loss that shrinks as sets grow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qact import checks
from qact.calibration.bins import in_dtype
from qact.calibration.checks import checked
from qact.calibration.conformal import weights_checked

Loss = Callable[[Tensor, Tensor], Tensor]  # sets (N, C) bool, labels (N,) -> losses (N,)


def risk_control(
    losses: Tensor, alpha: float, *, bound: float = 1.0, weights: Tensor | None = None
) -> int:
    """Return the index of the first parameter whose risk is controlled.

    With losses ``L_i(lambda_k) <= B`` that do not grow with ``k``, weights ``w_i`` in [0, 1] and
    ``n_w = sum_i w_i``::

        k = min { k : ( sum_i w_i L_i(lambda_k) + B ) / (n_w + 1) <= alpha }

    All weights 1: conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814, eq. 4), and
    with exchangeable samples the expected loss of a new one is at most ``alpha``. Other weights:
    its non-exchangeable form (Farinhas et al. 2024, arXiv 2310.01262), where the excess is bounded
    by the weighted total variation to the new sample. If no parameter will do, the last.

    Args:
        losses: (n, K), one column per parameter, not increasing along a row.
        alpha: the risk that is allowed, positive.
        bound: ``B``, the largest possible loss.
        weights: (n,) in [0, 1]; None for ones.

    Raises:
        ValueError: a loss grows along its row or exceeds ``bound``, or options are out of range.

    Example:
        >>> misses = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]).repeat(50, 1)
        >>> risk_control(misses, 0.5), risk_control(misses, 0.52)
        (2, 1)
    """
    checks.number("alpha", alpha, "a positive number", 0)
    checks.number("bound", bound, "a positive number", 0)
    if losses.ndim != 2 or 0 in losses.shape:
        raise ValueError(f"losses must be (n, K) with n, K >= 1, got {tuple(losses.shape)}")
    wide = losses.double()
    slack = 1e-12 * bound  # of rounding, in the losses' own unit
    if not ((wide.diff(dim=1) <= slack).all() and wide.max() <= bound):
        raise ValueError(
            f"losses must be numbers that do not grow along a row, nor exceed bound={bound!r}"
        )
    w = weights_checked(wide, weights)
    risk = (w @ wide + bound) / (w.sum() + 1)
    controlled = (risk <= alpha + slack).nonzero()
    return int(controlled[0, 0]) if len(controlled) else wide.shape[1] - 1


def miss(sets: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where the set lacks the label, else 0, (N,)."""
    return 1 - sets.gather(1, labels[:, None])[:, 0].double()


class ConformalRiskControl:
    """Sets ``{k : p_k >= 1 - lambda}`` whose expected loss is at most ``alpha``.

    Args:
        alpha: the risk that is allowed.
        loss: ``loss(sets, labels)``, (N,), not growing as sets grow; :func:`miss` by default, which
            makes it split conformal prediction.
        bound: the largest possible loss.
        grid: how many values of ``lambda``, evenly from 0 to 1.

    Attributes:
        threshold: the fitted ``lambda``.

    Example:
        >>> probs = torch.tensor([[0.7, 0.2, 0.1]]).repeat(99, 1)
        >>> labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 9)
        >>> round(ConformalRiskControl(0.2).fit(probs, labels).threshold, 3)
        0.8
    """

    threshold: float

    def __init__(
        self, alpha: float = 0.1, *, loss: Loss = miss, bound: float = 1.0, grid: int = 1001
    ) -> None:
        self.alpha = checks.number("alpha", alpha, "a positive number", 0)
        self.bound = checks.number("bound", bound, "a positive number", 0)
        self.grid = checks.integer("grid", grid, 2)
        self.loss = loss

    def fit(
        self, probs: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> ConformalRiskControl:
        """Choose ``lambda`` on held-out probabilities (n, C) and labels (n,)."""
        wide, y = checked(probs, labels)
        lambdas = torch.linspace(0, 1, self.grid, dtype=torch.float64, device=wide.device)
        sets = [_sets(wide, float(t), probs.dtype) for t in lambdas]
        losses = torch.stack([self.loss(chosen, y) for chosen in sets], 1)
        best = risk_control(losses, self.alpha, bound=self.bound, weights=weights)
        self.threshold = float(lambdas[best])
        return self

    def predict(self, probs: Tensor) -> Tensor:
        """Return which classes each set holds, (N, C) bool."""
        if not hasattr(self, "threshold"):
            raise RuntimeError("there is no threshold yet; call fit(probs, labels)")
        wide, _ = checked(probs, torch.zeros(len(probs), dtype=torch.long, device=probs.device))
        return _sets(wide, self.threshold, probs.dtype)


def _sets(p: Tensor, threshold: float, dtype: torch.dtype) -> Tensor:
    # 1 - lambda is rounded twice: in float64, of no account, and in the dtype of the probabilities.
    return p >= in_dtype(1 - threshold - 1e-12, dtype).to(p.device)
