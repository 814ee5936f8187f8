"""Forms whose scores are scaled by the length of their row: selective, softplus (LSSA)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qact import checks
from qact.attention.quadratic import Mapped
from qact.attention.registry import register
from qact.vectors import unit_vectors, wide
from qact.weights.masking import divided, unscaled


def lengths(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """How many keys each query has before it, itself included, or all: (L, 1)."""
    L, S = q.shape[-2], k.shape[-2]
    dtype = torch.promote_types(q.dtype, torch.float32)  # half precision cannot count that far
    if not causal:
        return torch.full((L, 1), float(S), dtype=dtype, device=q.device)
    return torch.arange(S - L + 1, S + 1, dtype=dtype, device=q.device).clamp_min(1)[:, None]


@register(
    "ssa",
    paper="Zhang et al. 2024, arXiv 2411.12892 (the authors' code)",
    formula="softmax((1 + exp(-exp(beta)) log n) q k^T / sqrt d), n the length of the row",
)
class Selective(Mapped):
    """Scores times ``1 + exp(-exp(beta)) log(n)``, ``n`` the keys that a query sees.

    The position part of selective self-attention, as in the authors' code, with ``beta`` learnt:
    long rows are sharpened. ``beta`` of infinity is standard attention. Its token part is not here:
    its formula was not found.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        normaliser: str | nn.Module = "softmax",
        beta: float = 1.5,
    ) -> None:
        super().__init__(num_heads, head_dim, causal, normaliser)
        self.beta = nn.Parameter(torch.tensor(float(beta)))

    def queries(self, q: Tensor, k: Tensor) -> Tensor:
        """The queries, sharpened."""
        factor = 1 + torch.exp(-torch.exp(self.beta)) * lengths(q, k, self.causal).log()
        return factor.to(q.dtype) * q


@register(
    "lssa",
    paper="Gao et al. 2025, arXiv 2501.13428",
    formula="softplus(log d log n cos(q, k)) / sum, n the length of the row",
)
class LSSA(Mapped):
    """``softplus(log(D) log(n) cos(q_i, k_j))``, rows divided by their sums.

    Length-scaled softplus attention (arXiv 2501.13428): ``n`` is the length of the row, so that
    its entropy does not grow with it. ``power`` adds the re-weighting of LSSAR: ``max(0, n w -
    1)^power``, divided by its sum, where rows of up to three keys have nothing taken off. A row of
    even weights is then all zeros. Masked keys count in ``n``.

    Args:
        num_heads, head_dim, causal: see :class:`qact.attention.Form`.
        power: None for none; 3 is best at the length of training, 15 far beyond it.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        normaliser: str | nn.Module = "softplus",
        power: float | None = None,
    ) -> None:
        super().__init__(num_heads, head_dim, causal, normaliser, math.log(max(head_dim, 2)))
        self.power = None if power is None else checks.number("power", power, "positive", 0)

    def queries(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries of length ``log n``."""
        return lengths(q, k, self.causal).log() * unit_vectors(q)

    @property
    def fused(self) -> bool:
        """Never: keys are normalised too."""
        return False

    def weights(
        self, q: Tensor, k: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, H, L, S)."""
        w = super().weights(wide(q), unit_vectors(wide(k)), x, mask)
        if self.power is None:
            return w.to(q.dtype)
        n = lengths(q, k, self.causal)
        above = torch.relu(n * w - (n > 3).to(w.dtype))
        sharp = unscaled(above, -1) ** self.power
        return divided(sharp, sharp.sum(-1, keepdim=True)).to(q.dtype)
