"""Cascades: a small model answers where it is sure, and defers to a larger one elsewhere.

Confidence deferral asks the second model where ``max_k p1_k < t``: for ``t = 0`` never, beyond 1
always. What would be best is to ask where ``P(h2 right) - P(h1 right)`` is largest; the two agree
where the second model is equally good everywhere (Jitkrittum et al. 2023, arXiv 2307.02764, prop.
3.1 and sec. 4). Any score that is larger where the first model is less to be trusted can take the
place of confidence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.calibration.checks import checked


def cascade(first: Tensor, second: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities (N, C) of the cascade, and which samples were deferred (N,).

    Raises:
        ValueError: the two have different shapes.

    Example:
        >>> first, second = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([[0.0, 1.0]] * 2)
        >>> cascade(first, second, 0.8)[0]
        tensor([[0.9000, 0.1000],
                [0.0000, 1.0000]])
    """
    if first.shape != second.shape:
        raise ValueError(f"two models of {tuple(first.shape)} and {tuple(second.shape)} do not fit")
    deferred = first.amax(1) < threshold
    return torch.where(deferred[:, None], second, first), deferred


def deferral_curve(
    first: Tensor, second: Tensor, labels: Tensor, doubt: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return shares ``k/N`` and the accuracies when the ``k`` most doubted are deferred, (N + 1,).

    Samples of equal doubt count as if in random order.

    Args:
        first: probabilities (N, C) of the cheap model.
        second: those of the other one.
        labels: (N,).
        doubt: (N,), larger where the first is less sure; None for ``1 - max p1``.

    Raises:
        ValueError: shapes do not fit, rows are no probabilities, or a doubt is NaN.

    Example:
        >>> first = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> deferral_curve(first, first.flip(1), torch.tensor([0, 1]))[1]
        tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)
    """
    (p, y), (q, _) = checked(first, labels), checked(second, labels)
    order = 1 - p.amax(1) if doubt is None else doubt.double()
    if order.shape != y.shape or order.isnan().any():
        raise ValueError(f"doubt must be ({len(y)},) without NaN, got {tuple(order.shape)}")
    gain = (q.argmax(1) == y).double() - (p.argmax(1) == y).double()
    _, group, size = (-order).unique(return_inverse=True, return_counts=True)
    each = (torch.bincount(group, gain) / size).repeat_interleave(size)
    start = (p.argmax(1) == y).double().mean()
    curve = torch.cat([start[None], start + each.cumsum(0) / len(y)])
    return torch.arange(len(y) + 1, dtype=torch.float64) / len(y), curve


def cascade_threshold(first: Tensor, second: Tensor, labels: Tensor, budget: float = 1.0) -> float:
    """Return the threshold of the highest accuracy that defers at most a share ``budget``.

    On held-out data; of equal accuracies the one that defers least. A hundredth of the budget may
    be left over where confidences are tied, never exceeded.

    Raises:
        ValueError: ``budget`` is no share, shapes do not fit, or rows are no probabilities.

    Example:
        >>> first = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> cascade_threshold(first, first.flip(1), torch.tensor([0, 1])) > 0.6
        True
    """
    checks.within("budget", budget, 0, 1 + 1e-12)
    (p, y), (q, _) = checked(first, labels), checked(second, labels)
    confidence = p.amax(1)
    gain = (q.argmax(1) == y).double() - (p.argmax(1) == y).double()
    values, group, size = confidence.unique(return_inverse=True, return_counts=True)
    reached = torch.cat([gain.new_zeros(1), torch.bincount(group, gain).cumsum(0)])
    deferred = torch.cat([size.new_zeros(1), size.cumsum(0)])
    reached[deferred > budget * len(y)] = -torch.inf
    best = int(reached.argmax())  # the first of the largest: the least that is deferred
    # Between the last that is deferred and the first that is not.
    if best == 0:
        return 0.0
    last = float(values[best - 1])
    return (last + float(values[best])) / 2 if best < len(values) else last + 1.0
