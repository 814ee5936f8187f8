"""Kolmogorov-Arnold layers: a learned function of one variable on every edge, in a chosen basis.

These are layers with weights, from ``in_features`` to ``out_features``, and no entries of the
registry: they stand where a linear layer and its activation stood.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.activations.bases import SIZED, relu_basis

BASES = ("relu", *SIZED)


class KAN(nn.Module):
    """A Kolmogorov-Arnold layer: ``y_o = sum_i (v_oi silu(x_i) + sum_k c_oik B_k(x_i))``.

    Liu et al. 2024, arXiv 2404.19756, Eq. 2.10. The base branch can be left out.

    Args:
        in_features: size of the last dimension of the input.
        out_features: that of the output.
        basis: ``"spline"``, ``"relu"`` (its intervals are trained too), ``"chebyshev"``,
            ``"radial"`` or ``"fourier"``.
        grid: cells of the interval; not for the polynomials and waves.
        order: of the splines, polynomials or waves.
        base: whether the SiLU branch is there.

    Example:
        >>> layer = KAN(4, 3, "chebyshev", order=5)
        >>> layer(torch.randn(7, 4)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([7, 3]), 84)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: str = "spline",
        *,
        grid: int = 5,
        order: int = 3,
        base: bool = True,
    ) -> None:
        super().__init__()
        self.basis = checks.choice("basis", basis, BASES)
        self.in_features = checks.integer("in_features", in_features, 1)
        self.out_features = checks.integer("out_features", out_features, 1)
        self.grid, self.order = checks.integer("grid", grid, 2), checks.integer("order", order, 1)
        size = grid + order if basis == "relu" else SIZED[basis][0](grid, order)
        scale = 1 / math.sqrt(in_features * size)
        self.coefficients = nn.Parameter(torch.randn(out_features, in_features, size) * scale)
        self.base = nn.Linear(in_features, out_features, bias=False) if base else None
        if basis == "relu":
            low = torch.arange(-order, grid) * (2 / grid) - 1
            self.low = nn.Parameter(low)
            self.high = nn.Parameter(low + (order + 1) * 2 / grid)

    def features(self, input: Tensor) -> Tensor:
        """The basis at every input, (..., in_features, K)."""
        if self.basis == "relu":
            return relu_basis(input, self.low, self.high)
        return SIZED[self.basis][1](input, self.grid, self.order)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        values = self.features(input).flatten(-2)
        output = F.linear(values, self.coefficients.flatten(1))
        return output if self.base is None else output + self.base(F.silu(input))

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        shape = f"{self.in_features}, {self.out_features}"
        return f"{shape}, basis={self.basis!r}, grid={self.grid}, order={self.order}"


COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quad1": lambda a, b: (a * b).square(),
    "quad2": lambda a, b: a * b + a.square() + b.square(),
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "sum_prod": lambda a, b: a + b + a * b,
    "cubic1": lambda a, b: (a + b) * (a.square() + b.square()),
    "cubic2": lambda a, b: (a * b) ** 3,
}
_ACTIVATIONS = {
    "relu": torch.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "selu": F.selu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class AFKAN(nn.Module):
    """AF-KAN: activations on both ends of an interval, combined, and reduced by attention.

    Ta and Tran 2025, arXiv 2503.06112, in the form of the first author's code with global
    attention: ``phi_k(x) = C(f(x - s_k), f(e_k - x))`` with an activation ``f`` and a combination
    ``C``; the ``K`` values of an input become one, weighted by a softmax over the inputs; then
    LayerNorm, ``f`` and a linear map. LayerNorm makes a constant of a single feature, and leaves of
    two the sign of their difference alone: up to two features go without. So the layer has about
    the parameters of a linear one. ``"quad1"`` with ReLU is the basis of ReLU-KAN but for its
    scale.

    Args:
        in_features: size of the last dimension of the input.
        out_features: that of the output.
        activation: ``f``, by name.
        combination: ``C``, one of :data:`COMBINATIONS`.
        grid: cells of the unit interval.
        order: by how many cells the intervals overlap.

    Example:
        >>> AFKAN(4, 3)(torch.randn(7, 4)).shape
        torch.Size([7, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "silu",
        combination: str = "quad1",
        *,
        grid: int = 3,
        order: int = 3,
    ) -> None:
        super().__init__()
        self.activation = checks.choice("activation", activation, tuple(_ACTIVATIONS))
        self.combination = checks.choice("combination", combination, tuple(COMBINATIONS))
        self.in_features = checks.integer("in_features", in_features, 1)
        checks.integer("grid", grid, 1), checks.integer("order", order, 1)
        low = torch.arange(-order, grid) / grid
        self.low = nn.Parameter(low)
        self.high = nn.Parameter(low + (order + 1) / grid)
        self.attention = nn.Linear(grid + order, 1)
        self.temperature = nn.Parameter(torch.tensor(math.sqrt(in_features)))
        self.norm = nn.LayerNorm(in_features) if in_features > 2 else nn.Identity()
        self.linear = nn.Linear(in_features, out_features, bias=False)

    def features(self, input: Tensor) -> Tensor:
        """The combined activations at every input, (..., in_features, K)."""
        f, x = _ACTIVATIONS[self.activation], input[..., None]
        return COMBINATIONS[self.combination](f(x - self.low), f(self.high - x))

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        phi = self.features(input)
        weights = (self.attention(phi) / self.temperature.clamp_min(1.0)).softmax(-2)
        reduced = self.norm((phi * weights).sum(-1))
        return self.linear(_ACTIVATIONS[self.activation](reduced))
