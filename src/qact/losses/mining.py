"""Which triplets of a batch a triplet loss is taken over: (anchor, positive, negative) indices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qact.losses.distances import distances_between, rough_squares

Triplets = tuple[Tensor, Tensor, Tensor]  # three (T,) int64
Among = tuple[Tensor, Tensor]  # positive and negative pairs, if not those of the labels
Miner = Callable[..., Triplets]  # of distances, labels, a margin, and such pairs


def pairs(
    labels: Tensor, reference_labels: Tensor | None = None, itself: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Positive pairs (same class, not the same sample) and negative pairs, (N, M) bool.

    Without references they are those of the batch with itself. ``itself`` says where among the
    references each sample stands.
    """
    if reference_labels is None:
        reference_labels, itself = labels, torch.arange(len(labels), device=labels.device)
    same = labels[:, None] == reference_labels
    if itself is None:
        return same, ~same
    return same.scatter(1, itself[:, None], False), ~same


def every(distances: Tensor, labels: Tensor, margin: float, among: Among | None = None) -> Triplets:
    """All triplets: ``y_a = y_p``, ``a != p``, ``y_a != y_n``; up to N^3 of them."""
    positive, negative = among or pairs(labels)
    a, p, n = (positive[:, :, None] & negative[:, None, :]).nonzero().unbind(1)
    return a, p, n


def hard(distances: Tensor, labels: Tensor, margin: float, among: Among | None = None) -> Triplets:
    """Per anchor its farthest positive and its nearest negative.

    "Batch hard" of Hermans, Beyer and Leibe 2017 (arXiv 1703.07737), eq. 5. Anchors without a
    positive or a negative are left out.
    """
    positive, negative = among or pairs(labels)
    anchor = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
    p = torch.where(positive, distances, -torch.inf).argmax(1)
    n = torch.where(negative, distances, torch.inf).argmin(1)
    return anchor, p[anchor], n[anchor]


def semi_hard(
    distances: Tensor, labels: Tensor, margin: float, among: Among | None = None
) -> Triplets:
    """Per positive pair the nearest negative that is farther than the positive, within the margin.

    ``d_ap < d_an < d_ap + margin``: Schroff, Kalenichenko and Philbin 2015 (arXiv 1503.03832),
    section 3.2, the inequality of their eq. 4. Pairs without such a negative are left out.
    """
    positive, negative = among or pairs(labels)
    # Negatives of each anchor in order: the first one beyond the positive is found by bisection.
    far, order = torch.where(negative, distances, torch.inf).sort(dim=1)
    last = distances.shape[1] - 1
    place = torch.searchsorted(far, distances.contiguous(), right=True).clamp_max(last)
    nearest = far.gather(1, place)
    # The difference, not ``distances + margin``, in which a small margin would be rounded away.
    some = positive & (nearest > distances) & (nearest - distances < margin)
    a, p = some.nonzero().unbind(1)
    return a, p, order.gather(1, place)[a, p]


@torch.no_grad()
def hardest(x: Tensor, labels: Tensor) -> Triplets:
    """Return what :func:`hard` finds, from embeddings, without the distances of all pairs.

    They are squared in float32 first. Where the second best lies within their rounding, the row is
    taken again from distances in float64: the answer is that of exact distances.
    """
    squares, rounding = rough_squares(x)
    codes = labels.unique(return_inverse=True)[1].to(squares.dtype)
    # 1 in the same class, 0 elsewhere, by arithmetic: several times faster than masks.
    same = (codes[:, None] - codes).abs_().neg_().add_(1).clamp_min_(0)
    far = torch.finfo(squares.dtype).max / 4
    near = (same * far).add_(squares)
    squares.mul_(-1).add_(same.sub_(1).mul_(-far)).fill_diagonal_(far)  # least where farthest
    (p, some), (n, others) = (_least(t, rounding, far) for t in (squares, near))
    for best, unsure, sign in ((p, some, -1), (n, others, 1)):
        if len(unsure):
            exact = distances_between(x[unsure], x).double() * sign
            mine = labels[unsure, None] == labels
            wrong = (mine if sign > 0 else ~mine).scatter_(1, unsure[:, None], True)
            best[unsure] = exact.masked_fill_(wrong, torch.inf).argmin(1)
    anchor = ((p >= 0) & (n >= 0)).nonzero()[:, 0]
    return anchor, p[anchor], n[anchor]


def _least(values: Tensor, rounding: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """Where each row is least, -1 if nowhere, and the rows whose rounding could hide another."""
    at = values.argmin(1, keepdim=True)
    least = values.gather(1, at)
    second = values.scatter_(1, at, far).amin(1, keepdim=True)
    some = least < far / 2
    unsure = (some & (second < far / 2) & (second - least <= 2 * rounding))[:, 0]
    return torch.where(some, at, -1)[:, 0], unsure.nonzero()[:, 0]


MINERS: dict[str, Miner] = {"all": every, "hard": hard, "semi_hard": semi_hard}
