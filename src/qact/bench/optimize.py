"""How the weights move: the learning rate as a function of the step, and the optimiser."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import nn

from qact.bench.recipe import Training


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of Smith and Topin's schedule (arXiv 1708.07120), cosine annealed.

    From ``peak/25`` up to ``peak`` over the first 30% of the steps, then down to ``peak/250000``:
    the values of ``torch.optim.lr_scheduler.OneCycleLR``, as a function of the step so that nothing
    has to be restored.

    Example:
        >>> [round(one_cycle(step, 101, 0.1), 4) for step in (0, 29, 100)]
        [0.004, 0.1, 0.0]
    """
    top, last = max(0.3 * steps - 1, 0.0), steps - 1
    if step < top:
        low, share = peak / 25, 1 - step / top
    else:
        low, share = peak / 250_000, (step - top) / max(last - top, 1)
    return low + (peak - low) * (1 + cos(pi * share)) / 2


def optimizer_for(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum 0.9; only matrices and filters decay."""
    wide = [p for p in model.parameters() if p.ndim > 1]
    narrow = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": wide, "weight_decay": training.weight_decay},
        {"params": narrow, "weight_decay": 0.0},
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=training.lr)
