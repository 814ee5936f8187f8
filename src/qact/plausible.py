"""What numbers a stored context can hold: asked before a state from elsewhere is loaded."""

from __future__ import annotations

import torch
from torch import Tensor


def plausible(name: str, value: Tensor) -> bool:
    """Whether a context can hold these numbers."""
    if name == "exponent":
        return bool((value.abs() <= 1000).all())
    if name == "offset":
        return bool((value.abs() < 2**58).all())
    return bool(torch.isfinite(value).all() and (name == "mean" or (value >= 0).all()))


def overfull(mass: Tensor | None, moment: Tensor | None) -> bool:
    """Whether values stand beyond the bins that hold them."""
    return mass is not None and moment is not None and bool((moment > mass * 1.001 + 1e-6).any())
