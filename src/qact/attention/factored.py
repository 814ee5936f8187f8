"""Weights that are products of features: their sums in time and memory linear in the tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.attention.form import Form, keys_kept

CHUNK = 128  # queries of a causal form that are worked on at once
TINY = 1e-6


def summed(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """``(q k^T) v`` without the matrix in the middle; causal by chunks of queries.

    A chunk's own keys are weighed by a small masked matrix, all earlier ones through ``k^T v``.
    """
    if not causal:
        return q @ (k.transpose(-1, -2) @ v)
    state, parts = torch.zeros_like(k[..., :1, :].transpose(-1, -2) @ v[..., :1, :]), []
    for i in range(0, q.shape[-2], CHUNK):
        a, b, c = (t[..., i : i + CHUNK, :] for t in (q, k, v))
        parts.append(a @ state + (a @ b.transpose(-1, -2)).tril() @ c)
        state = state + b.transpose(-1, -2) @ c
    return torch.cat(parts, -2)


class Linear(Form):
    """Weights ``phi(q_i) phi(k_j)`` of features that :meth:`factors` gives, rows divided by sums.

    A form whose weights are not divided sets ``divided = False``.
    """

    linear = True
    divided = True

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``phi(q)`` (N, H, L, F) and ``phi(k)`` (N, H, S, F).

        ``keep`` (..., S, 1) says which keys take part, None all; the others' features need not be
        0.
        """
        raise NotImplementedError

    def _kept(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.causal and q.shape[-2] != k.shape[-2]:
            raise ValueError(
                f"causal: {q.shape[-2]} queries and {k.shape[-2]} keys must be as many"
            )
        a, b = self.factors(q, k, keep)
        return a, b if keep is None else b.masked_fill(~keep, 0)

    def weights(
        self, q: Tensor, k: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, H, L, S)."""
        a, b = self._kept(q, k, keys_kept(mask, k))
        w = a @ b.transpose(-1, -2)
        w = w.tril() if self.causal else w
        return w / w.sum(-1, keepdim=True).clamp_min(TINY) if self.divided else w

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output (N, H, L, E), in linear time."""
        keep, v = keys_kept(mask, k), self.values(v)
        a, b = self._kept(q, k, keep)
        v = v if keep is None else v.masked_fill(~keep, 0)
        if not self.divided:
            return self.finish(summed(a, b, v, self.causal), x)
        both = summed(a, b, torch.cat([v, torch.ones_like(v[..., :1])], -1), self.causal)
        return self.finish(both[..., :-1] / both[..., -1:].clamp_min(TINY), x)
