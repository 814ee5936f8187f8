"""Polynomial compositions: PolyReLU and PolyNorm."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.recompute import recomputed, with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell
from qact.rank.layout import channel_dim


def polyrelu(input: Tensor, a: Tensor) -> Tensor:
    """``sum_{i=0..r} a_i max(0, x)^i`` (Zhuo et al. 2024, arXiv 2411.03884).

    ``a`` (r + 1,). ``(0, 1, 0, 0)`` is ReLU, ``(0, 0, 1, 0)`` squared ReLU.

    Example:
        >>> polyrelu(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 1.0, 1.0]))
        tensor([0.5000, 6.5000])
    """
    return with_partials(_polyrelu, _polyrelu_partials, input, *a.unbind())


def _polyrelu(x: Tensor, *a: Tensor) -> Tensor:
    positive, total = torch.relu(x), a[-1].expand_as(x)
    for coefficient in reversed(a[:-1]):
        total = total * positive + coefficient
    return total


def _polyrelu_partials(x: Tensor, *a: Tensor) -> tuple[Tensor, ...]:
    positive = torch.relu(x)
    powers = [torch.ones_like(x)]
    for _ in a[1:]:
        powers.append(powers[-1] * positive)
    slope = torch.zeros_like(x)
    for i, (coefficient, power) in enumerate(zip(a[1:], powers, strict=False), 1):
        slope = slope + i * coefficient * power
    return slope * x.sign().clamp_min(0.0), *powers


@register(
    "polyrelu",
    paper="Zhuo et al. 2024, arXiv 2411.03884",
    formula="sum_i a_i max(0, x)^i",
    parameters=("a",),
)
class PolyReLU(Shell):
    """Module of :func:`polyrelu`, one for the layer; starts at ``a = (0, 1/r, ..., 1/r)``."""

    shown = ("r",)

    def __init__(self, r: int = 3, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.r = checks.integer("r", r, 1)
        self.a = nn.Parameter(torch.tensor([0.0] + [1 / r] * r))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`polyrelu`."""
        return polyrelu(input, self.a)


def polynorm(input: Tensor, a: Tensor, dim: int = 1, eps: float = 1e-6) -> Tensor:
    """``a_0 + sum_{i=1..r} a_i x^i / rms(x^i)`` over ``dim`` (arXiv 2411.03884).

    The root mean square is taken over ``dim``, the features of a place. Invariant to positive
    scaling of ``x`` but for ``eps``, which is relative to the largest value.

    Example:
        >>> polynorm(torch.tensor([[3.0, -3.0]]), torch.tensor([0.0, 1.0]))
        tensor([[ 1.0000, -1.0000]])
    """
    return recomputed(partial(_polynorm, dim=channel_dim(input, dim), eps=eps), input, a)


def _polynorm(x: Tensor, a: Tensor, dim: int, eps: float) -> Tensor:
    # The powers of x / max|x| give the same ratios, and cannot overflow.
    largest = x.detach().abs().amax(dim, keepdim=True)
    unit = x / torch.where(largest > 0, largest, 1.0)
    total, power = a[0].expand_as(x), torch.ones_like(x)
    for coefficient in a[1:].unbind():
        power = power * unit
        total = total + coefficient * power * torch.rsqrt(
            power.square().mean(dim, keepdim=True) + eps
        )
    return total


@register(
    "polynorm",
    paper="Zhuo et al. 2024, arXiv 2411.03884",
    formula="a_0 + sum_i a_i x^i / rms(x^i)",
    parameters=("a",),
    pointwise=False,
)
class PolyNorm(Shell):
    """Module of :func:`polynorm`, one for the layer; starts at ``a = (0, 1/r, ..., 1/r)``."""

    shown = ("r", "dim")

    def __init__(self, r: int = 3, dim: int = 1, eps: float = 1e-6, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.r, self.dim = checks.integer("r", r, 1), checks.integer("dim", dim)
        self.eps = checks.number("eps", eps, "a positive number", 0)
        self.a = nn.Parameter(torch.tensor([0.0] + [1 / r] * r))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`polynorm`."""
        return polynorm(input, self.a, self.dim, self.eps)
