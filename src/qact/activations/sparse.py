"""Functions that keep the largest values of a layer: top-k, ASH and Hard ASH."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import checks
from qact.activations.recompute import recomputed
from qact.activations.registry import register
from qact.activations.shell import Shell
from qact.rank.layout import channel_dim


def topk(input: Tensor, k: int | float = 0.25, dim: int = 1) -> Tensor:
    """``TopK_k(max(0, x))``: the ``k`` largest positive values along ``dim``, zero elsewhere.

    Li et al. 2022, arXiv 2210.06313. An integer ``k`` counts, a share in (0, 1] is rounded up. At
    most ``k`` values of a token are non-zero, ties included.

    Example:
        >>> topk(torch.tensor([[1.0, 3.0, -5.0, 2.0]]), 2)
        tensor([[0., 3., 0., 2.]])
    """
    dim = channel_dim(input, dim)
    width = input.shape[dim]
    count = k if isinstance(k, int) else -int(-width * k // 1)
    if not 1 <= count <= width:
        raise ValueError(f"k={k!r} must be 1 to {width} values of dim {dim}, or a share in (0, 1]")
    positive = torch.relu(input)
    index = positive.topk(count, dim).indices
    return positive * torch.zeros_like(positive).scatter(dim, index, 1.0)


@register(
    "topk",
    paper="Li et al. 2022, arXiv 2210.06313",
    formula="max(0, x) if among the k largest channels, else 0",
    pointwise=False,
)
class TopK(Shell):
    """Module of :func:`topk`."""

    shown = ("k", "dim")

    def __init__(self, k: int | float = 0.25, dim: int = 1, inplace: bool = False) -> None:
        super().__init__(inplace)
        if isinstance(k, float):
            checks.number("k", k, "a count, or a share in (0, 1]", 0, 1)
        else:
            checks.integer("k", k, 1)
        self.k, self.dim = k, checks.integer("dim", dim)

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`topk`."""
        return topk(input, self.k, self.dim)


def ash(input: Tensor, alpha: float = 3.0, z_k: float = 2.3) -> Tensor:
    """``x sigmoid(alpha (x - mu - z_k sigma))``, ``mu`` and ``sigma`` over each sample's layer.

    Lee et al. 2022, arXiv 2210.11672, in the parameters of Keskinen 2024, arXiv 2404.17651 (whose
    ``alpha`` is twice that of Lee et al.). ``z_k`` is a Gaussian quantile: 2.3 keeps about 1%.

    Example:
        >>> ash(torch.tensor([[0.0, 0.0, 0.0, 4.0]]), z_k=1.0)
        tensor([[0.0000, 0.0000, 0.0000, 3.9128]])
    """
    return recomputed(lambda x: x * torch.sigmoid(_excess(x, alpha, z_k)), input)


def hard_ash(input: Tensor, alpha: float = 3.0, z_k: float = 2.3) -> Tensor:
    """``min(max(x, 0), 2) hard_sigmoid(alpha (x - mu - z_k sigma))`` (arXiv 2404.17651).

    ``hard_sigmoid(u) = min(max(0, u + 3), 6) / 6``, as in the author's code. As ``alpha`` grows,
    what stands above ``mu + z_k sigma`` alone is kept.

    Example:
        >>> hard_ash(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), z_k=1.0)
        tensor([[0.0000, 0.0000, 0.0000, 0.6585]])
    """
    return recomputed(lambda x: x.clamp(0.0, 2.0) * F.hardsigmoid(_excess(x, alpha, z_k)), input)


def _excess(x: Tensor, alpha: float, z_k: float) -> Tensor:
    inner = tuple(range(1, x.dim())) or (0,)
    mean = x.mean(inner, keepdim=True)
    var = (x - mean).square().mean(inner, keepdim=True)
    # A constant layer has no spread, and must not have an infinite derivative for it.
    return alpha * (x - mean - z_k * torch.sqrt(var + torch.finfo(var.dtype).tiny))


class _ASH(Shell):
    shown = ("alpha", "z_k")

    def __init__(self, alpha: float = 3.0, z_k: float = 2.3, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = checks.number("alpha", alpha, "a positive number", 0)
        self.z_k = z_k


@register(
    "ash",
    paper="Lee et al. 2022, arXiv 2210.11672",
    formula="x sigmoid(alpha (x - mu - z_k sigma))",
    pointwise=False,
)
class ASH(_ASH):
    """Module of :func:`ash`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`ash`."""
        return ash(input, self.alpha, self.z_k)


@register(
    "hard_ash",
    paper="Keskinen 2024, arXiv 2404.17651",
    formula="min(max(x, 0), 2) hard_sigmoid(alpha (x - mu - z_k sigma))",
    pointwise=False,
)
class HardASH(_ASH):
    """Module of :func:`hard_ash`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`hard_ash`."""
        return hard_ash(input, self.alpha, self.z_k)
