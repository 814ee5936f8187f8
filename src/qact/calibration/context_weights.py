"""Weights of held-out samples from the distance between their context and that of the test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.statistics.distance import kolmogorov


def context_distance(a: Context, b: Context) -> float:
    """Return the mean over channels of ``max_z |F_a(z) - F_b(z)|``, in [0, 1].

    ``F`` is the plain rank in a context, its distribution function: the Kolmogorov distance, which
    no increasing map of a channel changes. It is at most the total variation between the two
    distributions of that channel, which is what bounds the coverage that a shift can cost
    (:mod:`qact.calibration.conformal`); of joint distributions it says less.

    Example:
        >>> a, b = Context(1).add(torch.randn(4000, 1)), Context(1).add(torch.randn(4000, 1) + 1)
        >>> context_distance(a, a), round(context_distance(a, b), 1)  # 2 Phi(1/2) - 1 = 0.38
        (0.0, 0.4)
    """
    return kolmogorov(a, b).mean().item()


def context_weights(held_out: Sequence[Context], test: Context, *, scale: float = 0.05) -> Tensor:
    """Return ``exp(-d_g / scale)`` for each held-out context ``g``, (G,), in [0, 1].

    ``d_g`` is :func:`context_distance` to the context of the test batch, which needs no labels.
    Give every held-out sample the weight of its own context.

    Args:
        held_out: contexts of groups of held-out samples, each of one condition.
        test: context of the test batch, of the same layer.
        scale: distance at which a weight has fallen to 1/e.

    Raises:
        ValueError: ``scale`` is not positive, or contexts have different channels.

    Example:
        >>> near, far = Context(1).add(torch.randn(999, 1)), Context(1).add(torch.rand(999, 1) + 9)
        >>> weights = context_weights([near, far], near)
        >>> weights[0].item(), bool(weights[1] < 1e-6)
        (1.0, True)
    """
    checks.number("scale", scale, "a positive number", 0)
    distances = torch.tensor([context_distance(c, test) for c in held_out], dtype=torch.float64)
    return (-distances / scale).exp()
