"""What goes into a model and what comes out: rows of finite numbers, rows of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def finite_rows(x: Tensor) -> Tensor:
    """Which samples (N,) hold nothing but finite numbers."""
    if not x.is_floating_point():
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    # What is not finite makes its row's sum so, which is read faster; a sum may overflow as well.
    sound = torch.isfinite(x.flatten(1).sum(1) if x.dim() > 1 else x)
    return sound if x.dim() == 1 or bool(sound.all()) else torch.isfinite(x).flatten(1).all(1)


def checked(logits: Any, rows: int) -> Tensor:
    """What a model returned, if that is logits (N, C) of so many rows."""
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returned {type(logits).__name__}; expected a tensor of logits (N, C), so "
            "wrap it in a module that picks them out"
        )
    if logits.dim() != 2 or len(logits) != rows:
        raise ValueError(
            f"the model returned a tensor of shape {tuple(logits.shape)} for {rows} samples; "
            "expected logits (N, C)"
        )
    return logits
