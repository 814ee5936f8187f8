"""Losses of sparse maps onto the simplex: their gradient is ``p - e_y``, as cross-entropy's is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qact import checks
from qact.losses.registry import logit_loss
from qact.losses.rows import less_one, rowwise
from qact.losses.softmax import comp_sum_loss
from qact.weights.heads import fenchel_young


@logit_loss("entmax", paper="Peters et al. 2019, arXiv 1905.05702")
def entmax_loss(logits: Tensor, target: Tensor, *, alpha: float = 1.5, **reduced: Any) -> Tensor:
    """Return ``(p - e_y) z + H(p)``, ``p = entmax(z)``, ``H(p) = (1 - sum p^a) / (a (a - 1))``.

    :func:`qact.weights.entmax_loss` with weights and reductions. It is 0 from a margin of ``1 / (a
    - 1)`` on; at ``alpha`` 1 it is cross-entropy.

    Args:
        logits: (N, C).
        target: (N,) int64.
        alpha: ``a``, at least 1.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``alpha``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> import torch
        >>> entmax_loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor(0.1953)
    """
    if checks.within("alpha", alpha, 1) == 1:
        return comp_sum_loss(logits, target, **reduced)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value, p = fenchel_young(z, y, alpha)
        return value, less_one(p, y[:, None])

    return rowwise(form, logits, target, **reduced)


@logit_loss("sparsemax", paper="Martins and Astudillo 2016, arXiv 1602.02068, eq. 14")
def sparsemax_loss(logits: Tensor, target: Tensor, **reduced: Any) -> Tensor:
    """Return ``-z_y + sum_S (z_j^2 - tau^2)/2 + 1/2``: :func:`entmax_loss` for ``alpha`` 2.

    0 exactly where the target's logit leads by 1.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> import torch
        >>> sparsemax_loss(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor(0.1250)
    """
    return entmax_loss(logits, target, alpha=2.0, **reduced)
