"""How the weights move: the optimiser of a training recipe."""

from __future__ import annotations

import torch
from torch import nn

from qact.bench.recipe.training import Training


def optimizer_for(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with momentum; only matrices and filters decay."""
    wide = [p for p in model.parameters() if p.ndim > 1]
    narrow = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": wide, "weight_decay": training.weight_decay},
        {"params": narrow, "weight_decay": 0.0},
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov
        )
    return torch.optim.AdamW(groups, lr=training.lr)
