"""Losses without labels, each from logits (N, C) to one number per sample (N,)."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """``-sum_c p_c log p_c``.

    >>> entropy(torch.zeros(1, 2))
    tensor([0.6931])
    """
    return soft_cross_entropy(logits, logits)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``-sum_c q_c log p_c`` with ``q`` the softmax of the logits ``target``."""
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1)


def symmetric_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of both directions of :func:`soft_cross_entropy`."""
    return (soft_cross_entropy(logits, target) + soft_cross_entropy(target, logits)) / 2


def soft_likelihood_ratio(logits: Tensor, clip: float = 0.99) -> Tensor:
    """``-sum_c p_c log(p_c / (1 - p_c))``, probabilities clipped (arXiv 2306.00650, equation 3)."""
    p = logits.softmax(1).clamp(max=clip)
    return -(p * torch.log(p / (1 - p) + 1e-5)).sum(1)
