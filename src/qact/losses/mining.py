"""Which triplets of a batch a triplet loss is taken over: (anchor, positive, negative) indices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Triplets = tuple[Tensor, Tensor, Tensor]  # three (T,) int64
Miner = Callable[[Tensor, Tensor, float], Triplets]


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positive pairs (same class, not the same sample) and negative pairs, (N, N) bool."""
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def every(distances: Tensor, labels: Tensor, margin: float) -> Triplets:
    """All triplets: ``y_a = y_p``, ``a != p``, ``y_a != y_n``; up to N^3 of them."""
    positive, negative = _pairs(labels)
    a, p, n = (positive[:, :, None] & negative[:, None, :]).nonzero().unbind(1)
    return a, p, n


def hard(distances: Tensor, labels: Tensor, margin: float) -> Triplets:
    """Per anchor its farthest positive and its nearest negative.

    "Batch hard" of Hermans, Beyer and Leibe 2017 (arXiv 1703.07737), eq. 5. Anchors without a
    positive or a negative are left out.
    """
    positive, negative = _pairs(labels)
    anchor = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
    p = torch.where(positive, distances, -torch.inf).argmax(1)
    n = torch.where(negative, distances, torch.inf).argmin(1)
    return anchor, p[anchor], n[anchor]


def semi_hard(distances: Tensor, labels: Tensor, margin: float) -> Triplets:
    """Per positive pair the nearest negative that is farther than the positive, within the margin.

    ``d_ap < d_an < d_ap + margin``: Schroff, Kalenichenko and Philbin 2015 (arXiv 1503.03832),
    section 3.2, the inequality of their eq. 4. Pairs without such a negative are left out.
    """
    positive, negative = _pairs(labels)
    # Negatives of each anchor in order: the first one beyond the positive is found by bisection.
    far, order = torch.where(negative, distances, torch.inf).sort(dim=1)
    place = torch.searchsorted(far, distances.contiguous(), right=True).clamp_max(len(far) - 1)
    nearest = far.gather(1, place)
    # The difference, not ``distances + margin``, in which a small margin would be rounded away.
    some = positive & (nearest > distances) & (nearest - distances < margin)
    a, p = some.nonzero().unbind(1)
    return a, p, order.gather(1, place)[a, p]


MINERS: dict[str, Miner] = {"all": every, "hard": hard, "semi_hard": semi_hard}
