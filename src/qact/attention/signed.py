"""Linear forms whose weights may be negative: InLine, MALA, Galerkin, Fourier."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.attention.factored import Linear
from qact.attention.linear import elu_exponent
from qact.attention.registry import register
from qact.vectors import wide
from qact.weights.masking import divided


def count(keep: Tensor | None, k: Tensor) -> Tensor | int:
    """The number of keys that take part, at least 1."""
    return k.shape[-2] if keep is None else keep.sum(-2, keepdim=True).clamp_min(1)


def mean(k: Tensor, keep: Tensor | None) -> Tensor:
    """The mean of the keys that take part, (..., 1, D)."""
    kept = k if keep is None else k.masked_fill(~keep, 0)
    return kept.sum(-2, keepdim=True) / count(keep, k)


def about_mean(a: Tensor, b: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Features of the weights ``a (b - mean b)^T + 1/N``, whose rows sum to 1.

    The mean is taken off the keys, not off the products: large ones would swallow the ``1/N``.
    """
    even = torch.ones_like(a[..., :1]) / count(keep, b)
    b = b - mean(b, keep)
    return torch.cat([a, even], -1), torch.cat([b, torch.ones_like(b[..., :1])], -1)


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
        """Both as they are, about the mean of the keys."""
        return about_mean(q / (count(keep, k) * math.sqrt(self.head_dim)), k, keep)


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
        """``beta phi(q)`` and ``phi(k)`` about its mean: ``beta S/N - gamma = 1/N``."""
        q, k = elu_exponent(q), elu_exponent(k)
        # Both in units of their largest, so that S has an inverse; in phi phi / S they cancel.
        kept = k if keep is None else k.masked_fill(~keep, -torch.inf)
        most = kept.detach().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(k.dtype).min)
        own = q.detach().amax(-1, keepdim=True)
        a, b = (q - own).exp(), (kept - most).exp()
        S = count(keep, k) * a @ mean(b, keep).transpose(-1, -2)
        return about_mean((own + most).exp() * a + divided(a, S), b, keep)


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
        if name not in self.norms:
            return t
        norm: Any = self.norms[name]
        scale, shift = wide(norm.weight), wide(norm.bias)
        return F.layer_norm(wide(t), norm.normalized_shape, scale, shift, norm.eps).to(t.dtype)

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
