"""One against the rest: each class is a question of its own, and the answers are summed.

``t_k`` is 1 for the target and -1 for all other classes. The logits are then no logarithms of
probabilities that sum to one; softmax of them ranks classes, and wants a temperature.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from qact import checks
from qact.losses.registry import logit_loss
from qact.losses.rows import rowwise


@logit_loss("squared_hinge", paper="Tang 2013, arXiv 1306.0239; Agarap 2017, 1712.03541")
def squared_hinge_loss(
    logits: Tensor, target: Tensor, *, power: int = 2, margin: float = 1.0, **reduced: Any
) -> Tensor:
    """Return ``sum_k max(0, margin - t_k z_k)^power``: a linear support vector machine as a head.

    The loss of CNN-SVM and (with ``power`` 1) of GRU-SVM (Agarap 2017, arXiv 1709.03082). Their
    ``||w||^2 / 2`` is weight decay of the head. 0 where every margin is kept.

    Args:
        logits: (N, C).
        target: (N,) int64.
        power: 2 or 1.
        margin: positive.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``power``, ``margin``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> import torch
        >>> squared_hinge_loss(torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([0]))  # 1.5^2
        tensor(2.2500)
    """
    checks.choice("power", power, (1, 2))
    checks.number("margin", margin, "a positive number", 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        own = (margin - z.gather(1, at)).clamp_min_(0)
        short = (z + margin).clamp_min_(0).scatter_(1, at, own)  # by how much each margin is missed
        if power == 1:
            value, gradient = short.sum(1), (short > 0).to(z.dtype)
        else:
            value, gradient = short.square().sum(1), short.mul_(2)
        return value, gradient.scatter_(1, at, -gradient.gather(1, at))

    return rowwise(form, logits, target, **reduced)


@logit_loss("gumbel", paper="Alexandridis et al. 2022, arXiv 2207.10936")
def gumbel_loss(logits: Tensor, target: Tensor, **reduced: Any) -> Tensor:
    """Return ``-log g(z_y) - sum_{k != y} log(1 - g(z_k))``, ``g(z) = exp(-exp(-z))``.

    Gumbel optimised loss (GOL): the Gumbel distribution in the place of the sigmoid, for rare
    classes. Logits are held in [-4, 10], as its authors' code does: beyond, ``exp(-z)`` overflows,
    and there is no gradient.

    Args:
        logits: (N, C).
        target: (N,) int64.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> import torch
        >>> gumbel_loss(torch.zeros(1, 2), torch.tensor([0]))  # 1 - log(1 - 1/e)
        tensor(1.4587)
    """

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        held = z.clamp(-4, 10)
        # -log g = exp(-z), by powers of 2: a third of the time, and right to its last digits here.
        rate = held.mul(-1 / math.log(2)).exp2_()
        own, inside = rate.gather(1, at), held.eq_(z)
        growth = rate.expm1()
        # log(1 - g) = log(expm1(rate)) - rate, and its slope by z is -rate / expm1(rate)
        other = (rate - growth.log()).scatter_(1, at, own)
        gradient = rate.div_(growth).scatter_(1, at, -own).mul_(inside)
        return other.sum(1), gradient

    return rowwise(form, logits, target, **reduced)
