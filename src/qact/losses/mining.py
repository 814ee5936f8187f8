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

    They are squared in float32 first. Those within their rounding of the best are measured again in
    float64: the answer is that of exact distances. Masks are numbers, 1 and 0, which a processor
    goes through ten times faster than through truths.
    """
    squares, rounding, top = rough_squares(x)
    codes = labels.unique(return_inverse=True)[1].to(squares.dtype)
    same = torch.eq(codes[:, None], codes, out=torch.empty_like(squares))
    far = torch.finfo(squares.dtype).max / 4
    near = torch.add(squares, same, alpha=far)
    same.fill_diagonal_(0)
    distant = same.addcmul_(same, squares.div_(top)).neg_()  # above -1/2: no positive
    p = _least(x, distant, 2 * rounding / top, -0.5, -1)
    n = _least(x, near, 2 * rounding, far / 2, 1)
    anchor = ((p >= 0) & (n >= 0)).nonzero()[:, 0]
    return anchor, p[anchor], n[anchor]


_FEW = 16  # candidates in a row; with more of them the row is measured as a whole


def _least(x: Tensor, values: Tensor, slack: Tensor, far: float, sign: int) -> Tensor:
    """Where each row is least (with ``sign`` -1: where the distance is greatest), -1 if nowhere.

    Decided by exact distances, the first on ties, among what lies within ``slack`` of the least.
    """
    least = values.amin(1, keepdim=True)
    among = values.le_(least + slack)
    number, best = among.sum(1), among @ torch.arange(len(x), dtype=among.dtype, device=x.device)
    some = least[:, 0] < far
    best = torch.where(some & (number == 1), best, -1).long()  # the sum of one place is that place
    rows = (some & (number > 1) & (number <= _FEW)).nonzero()[:, 0]
    if len(rows):
        i, j = among[rows].nonzero().unbind(1)
        d = (x[rows[i]].double() - x[j].double()).square_().sum(1).mul_(sign)
        first = d.new_full((len(rows),), torch.inf).scatter_reduce_(0, i, d, "amin")
        ties = torch.where(d == first[i], j, len(x))
        best[rows] = torch.full_like(rows, len(x)).scatter_reduce_(0, i, ties, "amin")
    rows = (some & (number > _FEW)).nonzero()[:, 0]
    if len(rows):
        d = distances_between(x[rows], x).double() * sign
        best[rows] = d.masked_fill_(among[rows] == 0, torch.inf).argmin(1)
    return best


MINERS: dict[str, Miner] = {"all": every, "hard": hard, "semi_hard": semi_hard}
