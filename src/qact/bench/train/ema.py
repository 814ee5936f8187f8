"""An exponential moving average of the weights (Polyak averaging), as the result of a training.

After step $t$: $\\bar\\theta \\leftarrow d_t \\bar\\theta + (1 - d_t) \\theta$ with
$d_t = \\min(d, (1 + t) / (10 + t))$, so that a short training does not keep its first weights. The
statistics of norms and the contexts of QAct layers are no weights, and their averages would not be
those of the averaged weights: they are read again from training images before they are used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from qact import _compat

SETTLE = 50  # batches; a momentum of 0.1 then remembers 0.5% of what was there before


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy without gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average's parameters towards the model's after the step of this number, from 0 on.

    Example:
        >>> model, average = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> follow(average, model, 0.0, 0)
        >>> bool(average.weight == model.weight)
        True
    """
    now = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(model.parameters())
    _compat.lerp_(ours, theirs, 1 - now)


@torch.no_grad()
def settle(average: nn.Module, batches: Iterable[Tensor]) -> None:
    """Let norms and contexts read training batches, as ``torch.optim.swa_utils.update_bn`` does."""
    average.train()
    for images in islice(batches, SETTLE):
        average(images)
    average.eval()
