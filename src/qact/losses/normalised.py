"""Losses of logits that are normalised first: by mean and deviation, or by their length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from qact import checks
from qact.losses.registry import logit_loss
from qact.losses.rows import less_one, rowwise, softmax_at
from qact.vectors import lengths


@logit_loss("z_loss", paper="de Brebisson and Vincent 2016, arXiv 1604.08859")
def z_loss(
    logits: Tensor, target: Tensor, *, a: float = 1.0, b: float = 0.0, **reduced: Any
) -> Tensor:
    """Return ``(1/a) softplus(a (b - s_y))``, ``s = (z - mean(z)) / std(z)`` over the classes.

    It sees no shift and no scale of the logits, as a rank does not. With constant logits ``s`` is
    0, and so is the gradient. ``s_y`` is at most ``sqrt(C - 1)``: the loss does not go to 0, and
    probabilities by softmax are not what it trains.

    Args:
        logits: (N, C).
        target: (N,) int64.
        a: positive.
        b: in deviations.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``a``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> z_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))  # log 2
        tensor(0.6931)
    """
    checks.number("a", a, "a positive number", 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        scores = z - z.amax(1, keepdim=True)  # rounds little: what they have in common is large
        classes, mean = z.shape[1], scores.mean(1, keepdim=True)
        scores = scores.sub_(mean)
        length = lengths(scores)
        # Equal logits may miss their mean by its rounding, of which a deviation must not be made.
        rounding = classes * torch.finfo(z.dtype).eps * mean.abs()
        inverse = torch.where(length <= rounding, 0, classes**0.5 / length)
        scores.mul_(inverse)
        own = scores.gather(1, at)
        slope = -torch.sigmoid(a * (b - own)) * inverse  # of the loss by s_y, over the deviation
        # std ds_y/dz = e_y - (1 + s_y s) / C
        gradient = scores.mul_(own).add_(1).mul_(-slope / z.shape[1]).scatter_add_(1, at, slope)
        return (softplus(a * (b - own)) / a)[:, 0], gradient

    return rowwise(form, logits, target, **reduced)


@logit_loss("logit_norm", paper="Wei et al. 2022, arXiv 2205.09310")
def logit_norm_loss(
    logits: Tensor, target: Tensor, *, temperature: float = 0.04, **reduced: Any
) -> Tensor:
    """Return the cross-entropy of ``z / (T ||z||)``: only the direction of the logits learns.

    Made so that the length of the logits does not grow for unknown inputs too. Logits of length 0
    stay 0, with zero gradient.

    Args:
        logits: (N, C).
        target: (N,) int64.
        temperature: ``T``, positive.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``temperature``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> z = torch.tensor([[3.0, 4.0]])
        >>> [round(logit_norm_loss(c * z, torch.tensor([0])).item(), 3) for c in (1, 100)]
        [5.007, 5.007]
    """
    checks.number("temperature", temperature, "a positive number", 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at, length = y[:, None], lengths(z)
        inverse = torch.where(length > 0, 1 / length, 0)
        scaled = z * (inverse / temperature)
        p, t = softmax_at(scaled, at)
        gradient = less_one(p, at)
        along = (gradient * scaled).sum(1, keepdim=True) * temperature**2
        return -t[:, 0], gradient.addcmul_(scaled, along, value=-1).mul_(inverse / temperature)

    return rowwise(form, logits, target, **reduced)
