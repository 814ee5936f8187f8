"""Bounded functions that stop a fault from travelling on: Clip-Act, FitAct, ProAct's HyReLU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.recompute import step, with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell, along

STEEPNESS = 20.0  # of the smooth step, as in the public code of ProAct's authors


def clipact(input: Tensor, threshold: Tensor) -> Tensor:
    """``x`` where ``0 <= x <= T``, else 0: what exceeds the threshold is dropped, not saturated.

    Hoang et al. 2019, arXiv 1912.00941. A NaN is dropped too. ``threshold`` has one element, or is
    already laid out to broadcast.

    Example:
        >>> clipact(torch.tensor([-1.0, 2.0, 2.1, torch.nan]), torch.tensor(2.0))
        tensor([0., 2., 0., 0.])
    """
    return with_partials(_clip, _clip_partials, input, threshold.detach())


def _clip(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where((x >= 0) & (x <= threshold), x, 0.0)


def _clip_partials(x: Tensor, threshold: Tensor) -> tuple[Tensor, None]:
    return step(x) * (1 - step(x - threshold)), None


@register(
    "clipact",
    paper="Hoang et al. 2019, arXiv 1912.00941",
    formula="x if 0 <= x <= T else 0",
    alone=False,
)
class ClipAct(Shell):
    """Module of :func:`clipact`; without a threshold it is ReLU.

    The threshold is found after training, see :func:`qact.activations.resilience.clip_search_`.
    """

    def __init__(self, threshold: float = math.inf, inplace: bool = False) -> None:
        super().__init__(inplace)
        if not threshold > 0:
            raise ValueError(f"threshold={threshold!r} must be positive")
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(float(threshold)))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`clipact`."""
        return clipact(input, self.threshold)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"threshold={self.threshold.item():g}"


def fitact(input: Tensor, bound: Tensor, steepness: float = STEEPNESS) -> Tensor:
    """``max(0, x sigmoid(k (lambda - x)))``: ReLU below the bound, smoothly zero above it.

    FitReLU of Ghavami et al. 2021, arXiv 2112.13544, and HyReLU of ProAct (arXiv 2406.06313), in
    the form of the public code of ProAct's authors, with ``k = 20``. The output stays below
    ``lambda`` (for ``k lambda >= 1``), and ``lambda -> inf`` is ReLU.

    Example:
        >>> fitact(torch.tensor([-1.0, 1.0, 2.0, 9.0]), torch.tensor(2.0))
        tensor([0., 1., 1., 0.])
    """
    k = torch.full_like(bound.detach(), steepness)
    return with_partials(_fit, _fit_partials, input, bound, k)


def _fit(x: Tensor, bound: Tensor, k: Tensor) -> Tensor:
    # Far above the bound the step is zero and x may be infinite: drop it as Clip-Act does.
    step = torch.sigmoid(k * (bound - x))
    return torch.where(step > 0, (x * step).clamp_min(0.0), 0.0)


def _fit_partials(x: Tensor, bound: Tensor, k: Tensor) -> tuple[Tensor, Tensor, None]:
    step = torch.sigmoid(k * (bound - x))
    open_ = (step > 0) & (x > 0)
    bend = torch.where(open_, x * (k * step * (1 - step)), 0.0)
    by_x = torch.where(open_, step, 0.0) - bend
    return by_x, bend, None


class _Bounded(Shell):
    shown = ("num_features", "steepness", "dim")

    def __init__(
        self,
        num_features: int | None = None,
        bound: float = 6.0,
        steepness: float = STEEPNESS,
        dim: int = 1,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        checks.number("bound", bound, "a positive number", 0)
        self.steepness = checks.number("steepness", steepness, "a positive number", 0)
        self.num_features, self.dim = num_features, checks.integer("dim", dim)
        self.bound = nn.Parameter(torch.full((num_features or 1,), float(bound)))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`fitact`."""
        return fitact(input, along(self.bound, input, self.dim), self.steepness)


@register(
    "fitact",
    paper="Ghavami et al. 2021, arXiv 2112.13544",
    formula="max(0, x sigmoid(k (lambda_c - x)))",
    parameters=("bound",),
    needs_features=True,
)
class FitAct(_Bounded):
    """Module of :func:`fitact` with one bound per channel at ``dim``.

    The bounds are trained after the weights, see :func:`qact.activations.resilience.fit_bounds_`.
    """

    def __init__(
        self,
        num_features: int,
        bound: float = 6.0,
        steepness: float = STEEPNESS,
        dim: int = 1,
        inplace: bool = False,
    ) -> None:
        checks.integer("num_features", num_features, 1)
        super().__init__(num_features, bound, steepness, dim, inplace)


@register(
    "proact",
    paper="Mousavi et al. 2024, arXiv 2406.06313",
    formula="max(0, x sigmoid(k (lambda - x)))",
    parameters=("bound",),
)
class ProAct(_Bounded):
    """Module of :func:`fitact` with one bound for the layer: ProAct's form of all layers but one.

    In the last layer ProAct keeps a bound per neuron, which is :class:`FitAct`; the bounds are
    trained layer by layer, see :func:`qact.activations.resilience.progressive_bounds_`.
    """

    def __init__(
        self,
        bound: float = 6.0,
        steepness: float = STEEPNESS,
        inplace: bool = False,
    ) -> None:
        super().__init__(None, bound, steepness, 1, inplace)
