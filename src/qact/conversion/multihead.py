"""torch's multi-head attention with another map in the place of softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.attention import Normaliser
from qact.attention.quadratic import products


class MultiheadAttention(nn.MultiheadAttention):
    """:class:`torch.nn.MultiheadAttention` whose weights are those of its ``normaliser``.

    A module becomes one by its class: parameters, state dict, arguments and results are torch's.
    Boolean masks have torch's sense: True is masked.
    """

    normaliser: Normaliser

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output and, if ``need_weights``, the weights, as torch's does."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, which must be given too")
        batched = query.dim() == 3
        at = 0 if self.batch_first or not batched else 1  # where the batch stands
        tokens = (t.transpose(0, at) if batched else t[None] for t in (query, key, value))
        parts = zip(tokens, self._weights(), self._biases(), strict=True)
        q, k, v = (F.linear(*part) for part in parts)
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (_more(t, b) for t, b in ((k, self.bias_k), (v, self.bias_v)))
            extra = 1
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
            extra += 1
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = products(q, k, 1 / math.sqrt(self.head_dim))
        if attn_mask is not None:
            whole = attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (len(q), -1))
            scores = _masked(scores, whole, extra)
        if key_padding_mask is not None:
            padding = key_padding_mask if batched else key_padding_mask[None]
            scores = _masked(scores, padding[:, None, None], extra)
        weights = self.normaliser(scores).to(v.dtype)
        weights = F.dropout(weights, self.dropout, self.training)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        output = output.transpose(0, at) if batched else output[0]
        if not need_weights:
            return output, None
        weights = weights.mean(1) if average_attn_weights else weights
        return output, weights if batched else weights[0]

    def _weights(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> tuple[Tensor | None, ...]:
        return (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)


def _more(t: Tensor, token: Tensor) -> Tensor:
    return torch.cat([t, token.expand(len(t), -1, -1)], 1)


def _masked(scores: Tensor, mask: Tensor, extra: int) -> Tensor:
    """The scores under a mask in torch's sense; what was added to the keys is never masked."""
    mask = F.pad(mask, (0, extra))
    if mask.dtype == torch.bool:
        return scores.masked_fill(mask, -torch.inf)
    if not mask.is_floating_point():
        raise TypeError(f"masks must be boolean (True is masked) or additive, got {mask.dtype}")
    return scores + mask.to(scores.dtype)
