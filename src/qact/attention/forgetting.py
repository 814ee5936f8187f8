"""Forgetting attention: a gate per head and token says how much of the past is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.attention.form import tokens
from qact.attention.quadratic import Mapped
from qact.attention.registry import register
from qact.vectors import wide, widest


@register(
    "forgetting",
    paper="Lin et al. 2025, arXiv 2503.02130",
    formula="softmax(q_i k_j / sqrt d + sum_{l = j+1..i} log f_l), f = sigmoid(w x + b), causal",
    input=True,
)
class Forgetting(Mapped):
    """``softmax(q_i k_j / sqrt(D) + D_ij)`` with ``D_ij = sum_{l=j+1..i} log f_l``, causal.

    The forgetting transformer (arXiv 2503.02130): a gate ``f_t = sigmoid(w^T x_t + b)`` per head
    and token says how much of the past is kept. ``D_ij = c_i - c_j`` with ``c`` the running sum of
    ``log f``, in float64. ``f = 1`` is causal softmax, a constant ``f`` ALiBi of slope ``-log f``.

    Args:
        num_heads, head_dim: see :class:`qact.attention.Form`; it is always causal.
        engine: None for torch's attention with the bias in memory, ``"flex"`` for FlexAttention,
            which makes it on the way and needs no memory of N^2 once compiled.

    Raises:
        ValueError: ``causal`` is False, or a call gives no tokens.

    Example:
        >>> form, t = Forgetting(1, 1), torch.zeros(1, 1, 2, 1)
        >>> _ = nn.init.zeros_(form.gate.weight), nn.init.zeros_(form.gate.bias)  # f = 1/2
        >>> form.weights(t, t, torch.zeros(1, 2, 1)).detach()[0, 0]
        tensor([[1.0000, 0.0000],
                [0.3333, 0.6667]])
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = True,
        normaliser: str | nn.Module = "softmax",
        engine: str | None = None,
    ) -> None:
        if not causal:
            raise ValueError("causal=False: forgetting attention runs along a sequence")
        super().__init__(num_heads, head_dim, True, normaliser)
        self.engine = checks.choice("engine", engine, (None, "flex"))
        self.gate = nn.Linear(num_heads * head_dim, num_heads)

    def decay(self, x: Tensor | None) -> Tensor:
        """``c``, the running sums of ``log f``: (N, H, L), float64.

        They grow with the sequence, and are subtracted: in float32 shut gates would cost digits.
        """
        f = wide(self.gate(tokens(x, "forgetting")).transpose(1, 2))
        # ONNX has no logsigmoid: it would be Log(Sigmoid(f)), which is -inf from f = -18 on.
        return widest(-F.softplus(-f, threshold=40)).cumsum(-1)

    def bias(self, q: Tensor, k: Tensor, x: Tensor | None, mask: Tensor | None) -> Tensor:
        """``D``, and ``-inf`` behind the query and where it is masked."""
        apart = [c[..., :, None] - c[..., None, :] for c in split(self.decay(x), q)]
        bias = (apart[0] + apart[1]).to(q.dtype)
        whole = super().bias(q, k, x, mask)
        assert whole is not None
        if whole.dtype == torch.bool:
            return bias.masked_fill(~whole, -torch.inf)
        return bias + whole.to(q.dtype)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output (N, H, L, E)."""
        if self.engine == "flex" and self.fused and mask is None:
            return self._flex(q, k, v, *split(self.decay(x), q))
        return super().forward(q, k, v, x, mask)

    def _flex(self, q: Tensor, k: Tensor, v: Tensor, c: Tensor, rest: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def score(s: Tensor, n: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s + (c[n, h, i] - c[n, h, j]) + (rest[n, h, i] - rest[n, h, j])

        def past(n: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return i >= j

        block = create_block_mask(past, None, None, q.shape[-2], k.shape[-2], device=str(q.device))
        return flex_attention(q, k, v, score_mod=score, block_mask=block, scale=self.scale)


def split(c: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers and the rest, in float32 at least: differences of the first are exact there."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    whole = c.detach().round()
    return whole.to(dtype), (c - whole).to(dtype)
