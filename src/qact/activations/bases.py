"""Bases of functions of one variable, for Kolmogorov-Arnold layers; each adds a last dimension."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def relu_basis(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``(ReLU(e - x) ReLU(x - s))^2 16 / (e - s)^4``: 1 in the middle of (s, e), 0 outside.

    Qiu et al. 2024 (ReLU-KAN), arXiv 2406.02075. ``low``, ``high`` (K,); adds a last
    dimension.

    Example:
        >>> relu_basis(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0]), torch.tensor([2.0])).T
        tensor([[0., 1., 0.]])
    """
    x = x[..., None]
    return (torch.relu(high - x) * torch.relu(x - low)).square() * 16 / (high - low).pow(4)


def spline_basis(x: Tensor, grid: int, order: int) -> Tensor:
    """B-splines of the order on ``grid`` equal cells of [-1, 1], ``grid + order`` of them.

    Liu et al. 2024 (KAN), arXiv 2404.19756. Inside the interval they sum to 1.

    Example:
        >>> spline_basis(torch.tensor([0.3]), 5, 3).sum(-1)
        tensor([1.0000])
    """
    step = 2 / grid
    knots = torch.arange(-order, grid + order + 1, dtype=x.dtype, device=x.device) * step - 1
    x = x[..., None]
    basis = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for p in range(1, order + 1):  # the recursion of de Boor and Cox, on equal knots
        left = (x - knots[: -p - 1]) / (p * step) * basis[..., :-1]
        right = (knots[p + 1 :] - x) / (p * step) * basis[..., 1:]
        basis = left + right
    return basis


def chebyshev_basis(x: Tensor, order: int) -> Tensor:
    """``T_0 ... T_order`` of ``tanh x``, by their recurrence (arXiv 2405.07200).

    Example:
        >>> chebyshev_basis(torch.tensor([0.0]), 3)
        tensor([[ 1.,  0., -1., -0.]])
    """
    u = torch.tanh(x)
    found = [torch.ones_like(u), u]
    for _ in range(order - 1):
        found.append(2 * u * found[-1] - found[-2])
    return torch.stack(found[: order + 1], -1)


def radial_basis(x: Tensor, grid: int) -> Tensor:
    """``exp(-((x - c_k) / h)^2)`` with ``grid`` centres on [-2, 2], ``h`` apart (arXiv 2405.06721).

    Example:
        >>> radial_basis(torch.tensor([-2.0]), 3)
        tensor([[1.0000, 0.3679, 0.0183]])
    """
    centres = torch.linspace(-2, 2, grid, dtype=x.dtype, device=x.device)
    return torch.exp(-((x[..., None] - centres) * (grid - 1) / 4).square())


def fourier_basis(x: Tensor, order: int) -> Tensor:
    """``cos(k x)`` and ``sin(k x)`` for ``k = 1 ... order``.

    Example:
        >>> fourier_basis(torch.tensor([0.0]), 2)
        tensor([[1., 1., 0., 0.]])
    """
    angle = x[..., None] * torch.arange(1, order + 1, dtype=x.dtype, device=x.device)
    return torch.cat([torch.cos(angle), torch.sin(angle)], -1)


# Per name: how many functions a basis has, and their values.
SIZED: dict[str, tuple[Callable[[int, int], int], Callable[[Tensor, int, int], Tensor]]] = {
    "spline": (lambda grid, order: grid + order, spline_basis),
    "chebyshev": (lambda grid, order: order + 1, lambda x, grid, order: chebyshev_basis(x, order)),
    "radial": (lambda grid, order: grid, lambda x, grid, order: radial_basis(x, grid)),
    "fourier": (lambda grid, order: 2 * order, lambda x, grid, order: fourier_basis(x, order)),
}
