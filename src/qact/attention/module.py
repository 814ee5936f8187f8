"""`Attention`: one module for every normaliser and every form."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact import weights as maps
from qact.attention.form import Form
from qact.attention.quadratic import Mapped
from qact.attention.registry import FORMS
from qact.registry import unknown


def normalisers() -> list[str]:
    """Every name that :func:`form` knows: forms, and maps that need nothing beside the scores.

    Example:
        >>> {"entmax15", "hedgehog"} <= set(normalisers())
        True
    """
    return sorted({*FORMS.names(), *maps.names(needs=())})


def form(
    normaliser: str | nn.Module, num_heads: int, head_dim: int, causal: bool = False, **options: Any
) -> Form:
    """Return a form by the name of its own, or by that of a map of :mod:`qact.weights`.

    A name that both have is the form's.

    Raises:
        ValueError: neither has the name, or an option does not fit.

    Example:
        >>> form("entmax15", 2, 8).map
        Map('entmax15', dim=-1)
        >>> type(form("hedgehog", 2, 8)).__name__
        'Hedgehog'
    """
    if isinstance(normaliser, Form):
        return normaliser
    if isinstance(normaliser, str) and normaliser in FORMS:
        return FORMS.create(normaliser, num_heads, head_dim, causal=causal, **options)
    if isinstance(normaliser, str) and normaliser not in maps.names():
        raise unknown("normaliser", normaliser, normalisers())
    return Mapped(num_heads, head_dim, causal, normaliser, **options)


class Attention(nn.Module):
    """Multi-head attention with any normaliser: projections, a :class:`Form`, a projection.

    Args:
        embed_dim: features of a token, a multiple of ``num_heads``.
        num_heads: heads.
        normaliser: a map of :func:`qact.weights.names`, a form of :func:`qact.attention.names`, or
            a module that is one of these. ``"softmax"`` calls torch's own attention.
        causal: no token sees one behind it.
        bias: of the projections.
        dropout: share of the outputs of the form that is dropped in training.
        **options: of the form or map.

    Shape: ``(N, L, embed_dim)`` to the same; a ``context`` (N, S, embed_dim) is read instead of the
    tokens themselves. A mask broadcasts to (N, heads, L, S), see :class:`Form`.

    Example:
        >>> import torch
        >>> layer = Attention(32, 4, "entmax15", causal=True)
        >>> layer(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        normaliser: str | nn.Module = "softmax",
        causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.embed_dim = checks.integer("embed_dim", embed_dim, 1)
        self.num_heads = checks.integer("num_heads", num_heads, 1)
        self.dropout = checks.within("dropout", dropout, 0, 1)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias)
        self.form = form(normaliser, num_heads, embed_dim // num_heads, causal, **options)
        self.out = nn.Linear(embed_dim, embed_dim, bias)

    def heads(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (N, H, L, D)."""
        if context is None:
            parts = self.qkv(x).chunk(3, -1)
        else:
            E = self.embed_dim
            bias = self.qkv.bias
            rest = None if bias is None else bias[E:]
            query = F.linear(x, self.qkv.weight[:E], None if bias is None else bias[:E])
            parts = (query, *F.linear(context, self.qkv.weight[E:], rest).chunk(2, -1))
        q, k, v = (p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in parts)
        return q, k, v

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the new tokens."""
        if x.dim() != 3 or x.shape[-1] != self.embed_dim:
            raise ValueError(f"x must be (N, L, {self.embed_dim}), got {tuple(x.shape)}")
        q, k, v = self.heads(x, context)
        output = self.form(q, k, v, x=x, mask=mask).transpose(1, 2).flatten(2)
        return self.out(F.dropout(output, self.dropout, self.training))

    def weights(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, heads, L, S), also of a form that never makes them."""
        q, k, _ = self.heads(x, context)
        return self.form.weights(q, k, x, mask)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
