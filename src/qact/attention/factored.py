"""Weights that are products of features: their sums in time and memory linear in the tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.attention.form import Form, keys_kept
from qact.vectors import exact, wide
from qact.weights.masking import divided

CHUNK = 128  # queries of a causal form that are worked on at once


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


def exponentials(a: Tensor, b: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """``e^a`` (N, H, L, F) and ``e^b`` (N, H, S, F), up to what cancels in a row of weights.

    Of each feature the largest key goes over to the queries, of each query its largest feature is
    taken off: no row sums to less than 1, however far exponents lie apart. Of a causal form all
    keys count, so that a row vanishes whose own are ``e^-87`` of those behind it (float32).
    """
    b = b if keep is None else b.masked_fill(~keep, -torch.inf)
    top = b.detach().amax(-2, keepdim=True).clamp_min(torch.finfo(b.dtype).min)
    a = a + top
    return (a - a.detach().amax(-1, keepdim=True)).exp(), (b - top).exp()


class Linear(Form):
    """Weights ``phi(q_i) phi(k_j)`` of features that :meth:`factors` gives, rows divided by sums.

    Features and sums are float32 at least: those of half precision overflow in long sequences. A
    form whose weights are not divided sets ``divided = False``.
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
        a, b = self.factors(wide(q), wide(k), keep)
        return a, b if keep is None else b.masked_fill(~keep, 0)

    def weights(
        self, q: Tensor, k: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, H, L, S)."""
        with exact(q.device.type):
            a, b = self._kept(q, k, keys_kept(mask, k))
            w = a @ b.transpose(-1, -2)
            w = w.tril() if self.causal else w
            return (divided(w, w.sum(-1, keepdim=True)) if self.divided else w).to(q.dtype)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output (N, H, L, E), in linear time."""
        keep = keys_kept(mask, k)
        with exact(q.device.type):
            a, b = self._kept(q, k, keep)
            w = self.values(wide(v))
            w = w if keep is None else w.masked_fill(~keep, 0)
            if self.divided:
                w = torch.cat([w, torch.ones_like(w[..., :1])], -1)
            output = summed(a, b, w, self.causal)
            if self.divided:
                output = divided(output[..., :-1], output[..., -1:])
        return self.finish(output, x).to(v.dtype)
