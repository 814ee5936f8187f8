"""Cross-entropy, with the argument names and checks of the other losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.checks import embedded
from qact.losses.registry import register
from qact.losses.rows import REDUCTIONS, kept_rows


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return ``-(1/N) sum_i sum_c q_ic log softmax(z_i)_c``, a scalar.

    ``q_ic = (1 - s) [c = y_i] + s / C`` with ``s`` the label smoothing (Szegedy et al. 2016, arXiv
    1512.00567, section 7). It is :func:`torch.nn.functional.cross_entropy`, checked, and computed
    in float32 for half precision.

    Args:
        logits: (N, C), floating.
        labels: (N,) integer, in 0..C-1, or (N, C) floating, the weights ``q`` before smoothing.
        label_smoothing: in [0, 1).
        weight: (C,), of the classes.
        ignore_index: rows with this label count for nothing; if all do, the loss is 0.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one value per row.

    Raises:
        ValueError: shapes, labels or options are not as described.
        TypeError: logits are not floating or labels neither integer nor weights.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6931)
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing!r} must be in [0, 1)")
    checks.choice("reduction", reduction, REDUCTIONS)
    if isinstance(labels, Tensor) and labels.is_floating_point() and labels.ndim == 2:
        z, _ = embedded(logits, labels[:, 0].long(), finite=False)
        if labels.shape != z.shape:
            raise ValueError(f"labels must be {tuple(z.shape)}, got {tuple(labels.shape)}")
        y = labels.to(z.dtype)
    else:
        z, y = embedded(logits, labels, finite=False)  # a scaler of gradients skips such batches
        rows = kept_rows(y, z.shape[1], ignore_index, "labels")
        if rows is not None and not len(rows) and reduction != "none":
            return z[rows].sum()
    return torch.nn.functional.cross_entropy(
        z,
        y,
        weight=None if weight is None else weight.to(z.dtype),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


@register(
    "cross_entropy", paper="Szegedy et al. 2016, arXiv 1512.00567, sec. 7", of="logits", soft=True
)
class CrossEntropy(nn.Module):
    """:func:`cross_entropy` as a module.

    Example:
        >>> CrossEntropy(label_smoothing=0.1)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6931)
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.ignore_index, self.reduction = ignore_index, reduction
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return cross_entropy(
            logits,
            labels,
            label_smoothing=self.label_smoothing,
            weight=self.get_buffer("weight") if self.weight is not None else None,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"label_smoothing={self.label_smoothing}"
