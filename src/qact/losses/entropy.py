"""Cross-entropy, with the argument names and checks of the other losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact.losses.checks import embedded
from qact.losses.registry import register


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return ``-(1/N) sum_i sum_c q_ic log softmax(z_i)_c``, a scalar.

    ``q_ic = (1 - s) [c = y_i] + s / C`` with ``s`` the label smoothing (Szegedy et al. 2016, arXiv
    1512.00567, section 7). It is :func:`torch.nn.functional.cross_entropy`, checked, and computed
    in float32 for half precision.

    Args:
        logits: (N, C), floating.
        labels: (N,) integer, in 0..C-1.
        label_smoothing: in [0, 1).

    Raises:
        ValueError: shapes, labels or ``label_smoothing`` are not as described.
        TypeError: logits are not floating or labels not integer.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6931)
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing!r} must be in [0, 1)")
    z, y = embedded(logits, labels, finite=False)  # a scaler of gradients skips such batches
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise ValueError(f"labels must be 0..{z.shape[1] - 1}, got {int(y.min())}..{int(y.max())}")
    return torch.nn.functional.cross_entropy(z, y, label_smoothing=label_smoothing)


@register("cross_entropy", paper="Szegedy et al. 2016, arXiv 1512.00567, sec. 7", of="logits")
class CrossEntropy(nn.Module):
    """:func:`cross_entropy` as a module.

    Example:
        >>> CrossEntropy(label_smoothing=0.1)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6931)
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"label_smoothing={self.label_smoothing}"
