"""Linear forms whose weights may be negative: InLine, MALA, Galerkin, Fourier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.attention.factored import TINY, Linear
from qact.attention.registry import register


def count(keep: Tensor | None, k: Tensor) -> Tensor | int:
    """The number of keys that take part, at least 1."""
    return k.shape[-2] if keep is None else keep.sum(-2, keepdim=True).clamp_min(1)


def total(k: Tensor, keep: Tensor | None) -> Tensor:
    """The sum of the keys that take part, (..., 1, D)."""
    return (k if keep is None else k.masked_fill(~keep, 0)).sum(-2, keepdim=True)


def shifted(a: Tensor, beta: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Features whose product is ``a b^T + beta``: one more of queries, which is 1 for keys."""
    return torch.cat([a, beta], -1), torch.cat([b, torch.ones_like(b[..., :1])], -1)


@register(
    "inline",
    paper="Han et al. 2024, arXiv 2412.06590 (the authors' code)",
    formula="q k_j - mean_s q k_s + 1/N, q scaled by 1/(N sqrt d)",
    linear=True,
    causal=False,
)
class InLine(Linear):
    """``q k_j - (1/N) sum_s q k_s + 1/N`` with ``q`` scaled by ``1/(N sqrt(D))``.

    Injective linear attention (arXiv 2412.06590): queries of one direction and different lengths
    have different weights. Without the local residual of the authors' network.
    """

    causal_form = False
    divided = False

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both as they are, and the shift that makes rows sum to 1."""
        n = count(keep, k)
        q = q / (n * math.sqrt(self.head_dim))
        return shifted(q, 1 / n - q @ (total(k, keep) / n).transpose(-1, -2), k)


@register(
    "mala",
    paper="Fan et al. 2025, arXiv 2507.00698 (the authors' code)",
    formula="(1 + 1/S) phi(q) phi(k_j) - S/N, S = sum_m phi(q) phi(k_m), phi = elu + 1",
    linear=True,
    causal=False,
)
class MALA(Linear):
    """``beta phi(q) phi(k_j) - gamma`` with ``beta = 1 + 1/S``, ``gamma = S/N``.

    Magnitude-aware linear attention (arXiv 2507.00698), ``S = sum_m phi(q) phi(k_m)``: the length
    of a query counts, as in softmax. Without the rotation of the authors' network.
    """

    causal_form = False
    divided = False

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """``beta phi(q)`` and ``phi(k)``, shifted by ``-gamma``."""
        q, k = F.elu(q) + 1, F.elu(k) + 1
        S = q @ total(k, keep).transpose(-1, -2)
        return shifted(q * (1 + 1 / S.clamp_min(TINY)), -S / count(keep, k), k)


@register(
    "galerkin",
    paper="Cao 2021, arXiv 2105.14995 (the authors' code)",
    formula="q (LN(k)^T LN(v)) / N",
    linear=True,
    causal=False,
    rows=False,
)
class Galerkin(Linear):
    """``q (LN(k)^T LN(v)) / N``: no softmax, a Petrov-Galerkin projection (arXiv 2105.14995)."""

    causal_form = False
    divided = False
    normed = ("k", "v")

    def __init__(self, num_heads: int, head_dim: int, causal: bool = False) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(head_dim) for name in self.normed})

    def _norm(self, name: str, t: Tensor) -> Tensor:
        return self.norms[name](t) if name in self.norms else t

    def values(self, v: Tensor) -> Tensor:
        """Normalised in Galerkin's form."""
        return self._norm("v", v)

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries, and keys over their number."""
        return self._norm("q", q), self._norm("k", k) / count(keep, k)


@register(
    "fourier",
    paper="Cao 2021, arXiv 2105.14995 (the authors' code)",
    formula="(LN(q) LN(k)^T) v / N",
    linear=True,
    causal=False,
    rows=False,
)
class Fourier(Galerkin):
    """``(LN(q) LN(k)^T) v / N``: the sibling of :class:`Galerkin` (arXiv 2105.14995)."""

    normed = ("q", "k")
