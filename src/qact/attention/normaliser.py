"""Where softmax stood in an attention that exists: a map with the ways in that networks have."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import weights as maps
from qact.attention.form import joint
from qact.attention.quadratic import Scores, normalising, products

# Networks add -1e4, -1e9 or the least number of a dtype to what they mask: -9,990 is a mask too,
# and bfloat16 makes -9,984 of -1e4.
MASKED = -5e3


class Normaliser(nn.Module):
    """A map of :mod:`qact.weights` in the place of softmax: ``weights = normaliser(scores)``.

    :func:`qact.convert` puts it there. Scores of -5,000 and below are masks, as networks add
    them: their weights are exactly 0, and a row of them is all zeros.

    Args:
        num_heads: ``H``; a map with a number per head has one for each.
        normaliser: a name of :func:`qact.weights.names`, or a :class:`qact.weights.Weights`.
        **options: of the map.

    Shape: scores (N, H, L, S) to weights alike; a mask as in :class:`qact.weights.Weights`.

    Example:
        >>> Normaliser(2, "entmax15")(torch.tensor([[[[2.0, 0.0, -1e9]]]]))
        tensor([[[[1., 0., 0.]]]])
    """

    def __init__(
        self, num_heads: int, normaliser: str | nn.Module = "softmax", **options: Any
    ) -> None:
        super().__init__()
        self.scores = Scores(num_heads)
        self.map = normalising(normaliser, num_heads, **options)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights (N, H, L, S)."""
        scores = self.scores(scores)
        return self.map(scores.masked_fill(scores <= MASKED, -torch.inf), mask)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """What :func:`torch.nn.functional.scaled_dot_product_attention` returns, with this map."""
        if enable_gqa:
            key, value = (repeated(t, query.shape[-3]) for t in (key, value))
        # As there, the causal mask begins at the first key.
        mask = joint(attn_mask, is_causal, query, key, first=True)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        weights = self(products(query, key, scale), mask).to(value.dtype)
        return F.dropout(weights, dropout_p) @ value

    @property
    def label(self) -> str:
        """The map's name, for summaries."""
        known = maps.entry_of(self.map)
        return type(self.map).__name__ if known is None else known.name


def repeated(t: Tensor, heads: int) -> Tensor:
    """Keys or values for ``heads`` query heads, each head of theirs several times."""
    return t.repeat_interleave(heads // t.shape[-3], -3)
