"""Several positives in one row: decoupled softmax, and soft top-k.

Targets are (N, C), bool or weights of which any positive number says "this class is one", or (N,)
int64 for rows with one positive each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from qact import checks
from qact.losses.registry import logit_loss
from qact.losses.rows import log_loss, rowwise

_STEPS = 60  # of a bisection that Newton's steps mostly end after four
_APART = 30.0  # there a sigmoid is an exponential to the last digit of float64, nearly


def _positives(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Positives as (n, C) bool, and one over their number, (n, 1); 0 where there is none."""
    if target.ndim == 1:
        one = torch.zeros_like(z, dtype=torch.bool).scatter_(1, target[:, None], True)
        return one, torch.ones_like(z[:, :1])
    positive = target > 0
    number = positive.sum(1, keepdim=True)
    return positive, torch.where(number > 0, 1 / number.clamp_min(1), 0).to(z.dtype)


@logit_loss("decoupled_softmax", paper="Gupta et al. 2024, arXiv 2310.10636", soft=True)
def decoupled_softmax_loss(logits: Tensor, target: Tensor, **reduced: Any) -> Tensor:
    """Return the mean over positives ``p`` of ``-log(e^z_p / (e^z_p + sum_negatives e^z_n))``.

    Other positives are left out of the denominator, so that all of them can be high at once. With
    one positive it is cross-entropy. A row without positives has loss 0.

    Args:
        logits: (N, C).
        target: (N, C), positive numbers at the positives; or (N,) int64.
        reduced: ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> z = torch.tensor([[9.0, 9.0, -9.0]])
        >>> decoupled_softmax_loss(z, torch.tensor([[1, 1, 0]])) < 1e-7
        tensor(True)
    """

    def form(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if target.ndim == 1:
            return log_loss(z, target)
        z = z - z.amax(1, keepdim=True)  # what a row has in common would cost the sum its digits
        positive, share = _positives(z, target)
        negatives = z.masked_fill(positive, -torch.inf)
        total = negatives.logsumexp(1, keepdim=True)
        behind = (total - z).masked_fill_(~positive, -torch.inf)  # sigmoid and softplus: 0
        pull = behind.sigmoid().mul_(share)
        # Without negatives their sum is 0, and so is their share of nothing.
        shares = negatives.sub_(total.clamp_min(torch.finfo(z.dtype).min)).exp_()
        value = (softplus(behind) * share).sum(1)
        return value, shares.mul_(pull.sum(1, keepdim=True)).sub_(pull)

    return rowwise(form, logits, target, soft=True, **reduced)


def soft_top_k(scores: Tensor, k: int, *, alpha: float = 1.0) -> Tensor:
    """Return ``p_j = sigmoid(alpha (x_j + t))`` with the ``t`` for which each row sums to ``k``.

    A smooth indicator of the ``k`` largest (Gupta et al. 2024, arXiv 2310.10636). Its
    Jacobian is ``diag(v) - v v^T / sum(v)``, ``v = alpha p (1 - p)``, here without gradient.

    Args:
        scores: (N, C), float32 or float64.
        k: in 1..C-1.
        alpha: sharpness, positive.

    Raises:
        ValueError: ``k`` is not as described.

    Example:
        >>> soft_top_k(torch.tensor([[1.0, 0.0, -1.0]]), 2).sum()
        tensor(2.)
    """
    if checks.integer("k", k, 1) >= scores.shape[1]:
        raise ValueError(f"k={k!r} must be less than the {scores.shape[1]} classes")
    return _soft_top_k(scores * alpha, k).sigmoid()


@torch.no_grad()
def _soft_top_k(x: Tensor, k: int) -> Tensor:
    """``x + t`` with ``sum sigmoid(x + t) = k``: Newton's steps inside a bracket that is halved.

    What the ``k`` largest miss is what all others have: ``sum sigmoid(-x - t)`` of these is ``sum
    sigmoid(x + t)`` of those. Where they lie far apart a sum near ``k`` would have no digits left.
    The logarithm of that ratio is a line of slope -2 there.
    """
    largest, place = x.topk(k + 1, 1)
    last, following, place = largest[:, k - 1 : k], largest[:, k:], place[:, :k]
    x = x - (last + following) / 2  # what a row has in common would cost t its digits
    # So far apart both are sums of exponentials: what both lose alike leaves the root.
    excess = ((last - following) / 2 - _APART).clamp_min_(0)
    below = excess - x.abs()
    above = below.gather(1, place)
    odds = torch.tensor(k / (x.shape[1] - k), dtype=x.dtype, device=x.device).log()
    low = odds - x.amax(1, keepdim=True) + excess
    high = odds - x.amin(1, keepdim=True) - excess
    # Right between two distant sides, and near the root of one large side.
    mass, top = (e.exp().sum(1, keepdim=True) for e in (below, above))
    t = (top.log1p() - (mass - top).log1p()).maximum(low).minimum(high)
    for _ in range(_STEPS):
        misses = (above - t).sigmoid_()
        p = (below + t).sigmoid_().scatter_(1, place, misses)
        missed = misses.sum(1, keepdim=True)
        had = p.sum(1, keepdim=True) - missed
        fall = misses.addcmul_(misses, misses, value=-1).sum(1, keepdim=True)
        rise = p.addcmul_(p, p, value=-1).sum(1, keepdim=True) - fall
        step = t + (missed / had).log_() / (fall / missed + rise / had)
        low, high = torch.where(had < missed, t, low), torch.where(had < missed, high, t)
        near = (step >= low) & (step <= high)  # an end is the root itself, once it is found
        new = torch.where(near, step, (low + high) / 2)
        # After a step of Newton's the error is of the order of its square.
        rest = torch.where(near, (new - t).square(), (new - t).abs())
        t = new
        if (rest <= 2 * torch.finfo(x.dtype).eps * (t.abs() + 1)).all():
            break
    return x + t


@logit_loss("soft_top_k", paper="Gupta et al. 2024, arXiv 2310.10636", soft=True)
def soft_top_k_loss(
    logits: Tensor, target: Tensor, *, k: int = 1, alpha: float = 1.0, **reduced: Any
) -> Tensor:
    """Return the mean over positives of ``-log p``, ``p`` the :func:`soft_top_k` of the logits.

    Args:
        logits: (N, C).
        target: (N, C), positive numbers at the positives; or (N,) int64.
        k: in 1..C-1, of how many answers the precision counts.
        alpha: sharpness, positive.
        reduced: ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``alpha``, ``k``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> soft_top_k_loss(torch.zeros(1, 4), torch.tensor([0]))  # log 4
        tensor(1.3863)
    """
    checks.number("alpha", alpha, "a positive number", 0)
    if checks.integer("k", k, 1) >= (logits.shape[1] if logits.dim() == 2 else k + 1):
        raise ValueError(f"k={k!r} must be less than the {logits.shape[1]} classes")

    def form(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        at = _soft_top_k(z * alpha, k)
        misses = (-at).sigmoid()
        if target.ndim == 1:
            own = target[:, None]
            value, miss = softplus(-at.gather(1, own))[:, 0], misses.gather(1, own)
            total_miss = miss
        else:
            positive, share = _positives(z, target)
            value = (softplus(-at).mul_(positive) * share).sum(1)
            miss = misses.mul_(positive).mul_(share)
            total_miss = miss.sum(1, keepdim=True)
        # By which share each moves t: v over its sum, which stays where all v have vanished.
        far = at.abs_().neg_()
        gradient = (far - 2 * far.exp().log1p_()).softmax(1).mul_(total_miss * alpha)
        if target.ndim == 1:
            return value, gradient.scatter_add_(1, own, miss * -alpha)
        return value, gradient.sub_(miss, alpha=alpha)

    return rowwise(form, logits, target, soft=True, **reduced)
