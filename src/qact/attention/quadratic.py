"""Forms with all weights: any map of scores, adaptive sparse, gated, ReLA, shaped."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import _compat, checks
from qact import weights as maps
from qact.attention.form import Form, joint, tokens
from qact.attention.registry import register
from qact.vectors import exact, wide
from qact.weights.masking import divided


def products(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The scores ``scale q k^T`` (..., L, S), float32 at least: half precision ends at 65,504."""
    with exact(q.device.type):
        return scale * (wide(q) @ wide(k).transpose(-1, -2))


class Scores(nn.Module):
    """Where the scores of a layer pass, (N, H, L, S): a place to listen, heads as channels.

    ``qact.record(model, batches, where=Scores)`` stores their contexts, one per head, and
    ``qact.drift`` compares later ones with them.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_features, self.dim = num_heads, 1

    def forward(self, scores: Tensor) -> Tensor:
        """Return the scores."""
        return scores

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"heads={self.num_features}"


class Mapped(Form):
    """``map(q k^T / sqrt(D)) v`` with any map of :mod:`qact.weights`.

    softmax goes to :func:`torch.nn.functional.scaled_dot_product_attention`, unless someone listens
    to its scores.

    Args:
        num_heads, head_dim, causal: see :class:`Form`.
        normaliser: a name of :func:`qact.weights.names`, or a :class:`qact.weights.Weights`.
        scale: of the scores; None is ``1/sqrt(D)``.
        **options: of the map; a map with a number per head has one for each.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        normaliser: str | nn.Module = "softmax",
        scale: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.scale = 1 / math.sqrt(head_dim) if scale is None else scale
        self.scores = Scores(num_heads)
        self.map = normalising(normaliser, num_heads, **options)

    def queries(self, q: Tensor, k: Tensor) -> Tensor:
        """The queries, times what scales a row of scores."""
        return q

    def bias(self, q: Tensor, k: Tensor, x: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What masks the scores, or is added to them."""
        return joint(mask, self.causal, q, k)

    def weights(
        self, q: Tensor, k: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, H, L, S)."""
        scores = products(self.queries(q, k), k, self.scale)
        return self.map(self.scores(scores), self.bias(q, k, x, mask)).to(q.dtype)

    @property
    def fused(self) -> bool:
        """Whether torch's own attention gives the same: plain softmax that nobody listens to."""
        softmax = isinstance(self.map, maps.Map) and self.map.name == "softmax"
        return softmax and not _compat.has_hooks(self.scores) and not _compat.has_hooks(self.map)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output (N, H, L, E)."""
        if not self.fused:
            return self.quadratic(q, k, v, x, mask)
        bias = self.bias(q, k, x, mask)
        bias = bias if bias is None or bias.dtype == torch.bool else bias.to(q.dtype)
        q = self.queries(q, k)
        output = F.scaled_dot_product_attention(q, k, self.values(v), bias, scale=self.scale)
        return self.finish(output, x)


def normalising(normaliser: str | nn.Module, num_heads: int, **options: Any) -> nn.Module:
    """A map by name, with a number per head where it learns one.

    Raises:
        ValueError: no such map, or one of classes rather than of keys.
        TypeError: neither a name nor a module.
    """
    if isinstance(normaliser, nn.Module):
        return normaliser
    if not isinstance(normaliser, str):
        raise TypeError(f"normaliser={normaliser!r} must be a name or a module")
    known = maps.entry(normaliser)
    if known.needs:
        raise ValueError(f"normaliser={normaliser!r} needs {', '.join(known.needs)}: it is a head")
    if known.parameters:
        options = {"heads": num_heads} | options
    return known(**options)


@register(
    "adaptive_sparse",
    paper="Correia et al. 2019, arXiv 1909.00015",
    formula="entmax(q k^T / sqrt d) with alpha learnt per head",
)
class AdaptiveSparse(Mapped):
    """alpha-entmax with a learnt ``alpha`` per head, see :class:`qact.weights.LearntEntmax`.

    Example:
        >>> q, k = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [3.0]]]])
        >>> AdaptiveSparse(1, 1).weights(q, k).detach()[0, 0]  # entmax at alpha 1.5
        tensor([[0., 1.]])
    """

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, alpha: float = 1.5
    ) -> None:
        super().__init__(num_heads, head_dim, causal, "entmax_learnt", alpha=alpha)


@register(
    "gated",
    paper="Bondarenko et al. 2023, arXiv 2306.12929",
    formula="sigmoid(G(x)) softmax(q k^T / sqrt d), one gate per head and token",
    rows=False,
    input=True,
)
class Gated(Mapped):
    """``sigmoid(G(x)) * softmax(q k^T / sqrt(D)) v``: a head can do nothing (arXiv 2306.12929).

    ``G`` is linear in the token, one gate per head; it starts at a gate of ``start``.

    Raises:
        ValueError: ``start`` does not lie in (0, 1), or a call gives no tokens.

    Example:
        >>> form, t = Gated(1, 2, start=0.25), torch.zeros(1, 1, 3, 2)
        >>> form(t, t, torch.ones_like(t), torch.zeros(1, 3, 2)).detach()[0, 0, 0]
        tensor([0.2500, 0.2500])
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        normaliser: str | nn.Module = "softmax",
        start: float = 0.5,
    ) -> None:
        super().__init__(num_heads, head_dim, causal, normaliser)
        self.gate = nn.Linear(num_heads * head_dim, num_heads)
        if not 0 < start < 1:
            raise ValueError(f"start={start!r} must lie in (0, 1)")
        nn.init.constant_(self.gate.bias, math.log(start / (1 - start)))

    def finish(self, output: Tensor, x: Tensor | None) -> Tensor:
        """The gated output."""
        gate = torch.sigmoid(self.gate(tokens(x, "gated")))
        return gate.transpose(1, 2)[..., None] * output


@register(
    "rela",
    paper="Zhang et al. 2021, arXiv 2104.07012",
    formula="RMSNorm(relu(q k^T / sqrt d) v)",
    rows=False,
)
class ReLA(Mapped):
    """``RMSNorm(relu(q k^T / sqrt(D)) v)``, the norm over a head's values, with a gain.

    A query whose scores are all negative gets zeros. ``gated`` multiplies by ``sigmoid(w * o)``.

    Example:
        >>> q = torch.ones(1, 1, 1, 1)
        >>> ReLA(1, 1).weights(q, torch.tensor([[[[-1.0], [2.0]]]]))[0, 0]
        tensor([[0., 2.]])
    """

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, gated: bool = False
    ) -> None:
        super().__init__(num_heads, head_dim, causal, "rela")
        self.gain = nn.Parameter(torch.ones(head_dim))
        self.gated = checks.flag("gated", gated)
        self.w = nn.Parameter(torch.zeros(head_dim)) if gated else None

    def finish(self, output: Tensor, x: Tensor | None) -> Tensor:
        """The normalised output."""
        normed = F.rms_norm(output, output.shape[-1:], self.gain.to(output.dtype), 1e-6)
        return normed if self.w is None else torch.sigmoid(self.w * output) * normed


@register(
    "shaped",
    paper="Noci et al. 2023, arXiv 2306.17759",
    formula="1 + softmax(q k^T / tau) - 1/m, tau = tau_0 sqrt(n n_k)",
    causal=False,
)
class Shaped(Mapped):
    """``I + softmax(q k^T / tau) - 1/m`` with ``tau = tau_0 sqrt(n D)``, ``n = H D`` the width.

    Shaped attention (arXiv 2306.17759): near the identity, so that tokens of a deep stack do not
    become alike. Queries and keys are of the same tokens.

    Raises:
        ValueError: queries and keys are not as many.

    Example:
        >>> t = torch.zeros(1, 1, 2, 4)
        >>> Shaped(1, 4).weights(t, t)[0, 0]  # even scores: the identity
        tensor([[1., 0.],
                [0., 1.]])
    """

    causal_form = False

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, tau: float = 1.0
    ) -> None:
        checks.number("tau", tau, "a positive number", 0)
        scale = 1 / (tau * math.sqrt(num_heads * head_dim * head_dim))
        super().__init__(num_heads, head_dim, causal, "softmax", scale)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output (N, H, L, E)."""
        if not self.fused or mask is not None or q.shape[-2] != k.shape[-2]:
            return self.quadratic(q, k, v, x, mask)
        return v + super().forward(q, k, v, x) - v.mean(-2, keepdim=True)

    def weights(
        self, q: Tensor, k: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, H, L, L)."""
        if q.shape[-2] != k.shape[-2]:
            raise ValueError(
                f"shaped attention is of a sequence to itself, got {q.shape[-2]} "
                f"queries and {k.shape[-2]} keys"
            )
        p = super().weights(q, k, x, mask)
        one = torch.ones_like(p[..., :1, :])
        one = one if mask is None else self.map(torch.zeros_like(one).expand_as(p), mask)
        even = divided(one, one.sum(-1, keepdim=True))
        return torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) + p - even
