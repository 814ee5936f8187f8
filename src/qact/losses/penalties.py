"""Cross-entropy with a penalty for miscalibration in the batch, and one for lengths of filters.

``r_i = max_k p_ik`` is the confidence of sample ``i``, and ``h_i`` is 1 where its class is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.registry import logit_loss, register
from qact.losses.rows import kept_rows, rowwise, softmax_at
from qact.losses.softmax import comp_sum_loss

_WIDTH = 0.4  # of the kernel, as in the paper's experiments


def _top_log_probability(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The form of ``log max_k p_k``."""
    first = z.argmax(1, keepdim=True)
    p, top = softmax_at(z, first)
    return top[:, 0], p.neg_().scatter_add_(1, first, torch.ones_like(top))


def _wide(logits: Tensor) -> Tensor:
    # Two terms read the logits: in half precision their gradients would be rounded before the sum.
    half = isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16)
    return logits.float() if half else logits


def _confidences(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """``r`` with its gradient, and ``h``, of the rows that count."""
    rows = kept_rows(target, logits.shape[1], ignore_index)
    z, y = (logits, target) if rows is None else (logits[rows], target[rows])
    if not len(y):
        return z.sum(1), z.sum(1)
    top = rowwise(_top_log_probability, z, y, reduction="none").exp()
    return top, (z.detach().argmax(1) == y).to(top.dtype)


@logit_loss("mmce", paper="Kumar, Sarawagi and Jain 2018, Proc. ICML")
def mmce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    strength: float = 2.0,
    ignore_index: int = -100,
    **reduced: Any,
) -> Tensor:
    """Return ``-log p_y + s sqrt(M)``, ``M = (1/N^2) sum_ij (h_i - r_i)(h_j - r_j) k(r_i, r_j)``.

    The maximum mean calibration error: 0 only where confidence is right at every level of it.
    ``k(a, b) = exp(-|a - b| / 0.4)``; sorted by confidence, the double sum is one pass.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        ignore_index: rows with this target count for nothing.
        reduced: ``weight``, ``reduction`` of the cross-entropy, see :func:`qact.losses.rowwise`.

    Example:
        >>> mmce_loss(torch.zeros(1, 2), torch.tensor([0]), strength=1.0)  # log 2 + 1/2
        tensor(1.1931)
    """
    checks.within("strength", strength, 0)
    logits = _wide(logits)
    plain = comp_sum_loss(logits, target, ignore_index=ignore_index, **reduced)
    r, h = _confidences(logits, target, ignore_index)
    return plain + strength * mmce(r, h).clamp_min(torch.finfo(r.dtype).tiny).sqrt()


def mmce(confidence: Tensor, hit: Tensor) -> Tensor:
    """Return the squared maximum mean calibration error of confidences and hits, both (N,).

    Example:
        >>> mmce(torch.tensor([0.75, 0.75]), torch.tensor([1.0, 0.0]))  # (-1/2)^2 / 4
        tensor(0.0625)
    """
    order = confidence.detach().argsort()
    r, gap = confidence[order], (hit - confidence)[order]
    # exp(-(r_i - r_j) / w) for j < i is a product: up to e^2.5, so nothing overflows.
    below = (gap * (r / _WIDTH).exp()).cumsum(0) - gap * (r / _WIDTH).exp()
    total = gap.square().sum() + 2 * (gap * (-r / _WIDTH).exp() * below).sum()
    return total / max(1, len(r)) ** 2


@logit_loss("dca", paper="Liang et al. 2020, arXiv 2009.04057")
def dca_loss(
    logits: Tensor,
    target: Tensor,
    *,
    strength: float = 1.0,
    ignore_index: int = -100,
    **reduced: Any,
) -> Tensor:
    """Return ``-log p_y + s |mean_i h_i - mean_i r_i|``: accuracy against mean confidence.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        ignore_index: rows with this target count for nothing.
        reduced: ``weight``, ``reduction`` of the cross-entropy, see :func:`qact.losses.rowwise`.

    Example:
        >>> dca_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + |1 - 1/2|
        tensor(1.1931)
    """
    checks.within("strength", strength, 0)
    logits = _wide(logits)
    plain = comp_sum_loss(logits, target, ignore_index=ignore_index, **reduced)
    r, h = _confidences(logits, target, ignore_index)
    return plain + strength * (h - r).sum().abs() / max(1, len(r))


@logit_loss("mdca", paper="Hebbalaguppe et al. 2022, arXiv 2203.13834")
def mdca_loss(
    logits: Tensor,
    target: Tensor,
    *,
    strength: float = 1.0,
    ignore_index: int = -100,
    **reduced: Any,
) -> Tensor:
    """Return ``-log p_y + s mean_k |mean_i p_ik - mean_i [y_i = k]|``: every class's frequency.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        ignore_index: rows with this target count for nothing.
        reduced: ``weight``, ``reduction`` of the cross-entropy, see :func:`qact.losses.rowwise`.

    Example:
        >>> mdca_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + 1/2
        tensor(1.1931)
    """
    checks.within("strength", strength, 0)
    logits = _wide(logits)
    plain = comp_sum_loss(logits, target, ignore_index=ignore_index, **reduced)
    classes = logits.shape[1]
    rows = kept_rows(target, classes, ignore_index)
    z, y = (logits, target) if rows is None else (logits[rows], target[rows])
    p = z.softmax(1).sum(0)
    seen = torch.bincount(y, minlength=classes)
    return plain + strength * (p - seen).abs().mean() / max(1, len(y))


@register("norm_loss", paper="Georgiou et al. 2021, arXiv 2103.06583", of="weights")
class NormLoss(nn.Module):
    """``s sum_c (1 - ||w_c||)^2`` over the filters of all layers: a soft tie to unit length.

    0 only where every filter has length 1. It is added to another loss, in the place of weight
    decay.

    Args:
        strength: ``s``, at least 0.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> nn.init.constant_(layer.weight, 3.0).norm()
        tensor(4.2426, grad_fn=<...>)
        >>> NormLoss(strength=1.0)(layer)  # (1 - 4.2426)^2
        tensor(10.5147, grad_fn=<...>)
    """

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self.strength = checks.within("strength", strength, 0)

    def forward(self, network: nn.Module) -> Tensor:
        """Return the loss of a network's weights of two and more dimensions."""
        weights = [w for w in network.parameters() if w.ndim > 1]
        if not weights:
            raise ValueError(f"{type(network).__name__} has no weights with filters")
        return self.strength * torch.stack([norm_loss(w) for w in weights]).sum()


def norm_loss(weight: Tensor) -> Tensor:
    """Return ``sum_c (1 - ||w_c||)^2`` over the first dimension of a weight.

    Example:
        >>> norm_loss(torch.tensor([[3.0, 4.0], [0.6, 0.8]]))
        tensor(16.)
    """
    return (1 - weight.flatten(1).norm(dim=1)).square().sum()
