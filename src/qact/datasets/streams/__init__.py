"""Test streams: in which order, in what company and in what condition test images arrive.

A stream is planned once, from a seed, as a list of batches of indices; images are corrupted when a
batch is asked for, each by its own random numbers. So iterating twice gives the same bits, and
nothing but one batch is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qact import checks
from qact.corruptions.apply import check_images, corrupt
from qact.corruptions.registry import corruptions
from qact.datasets.streams.orders import Plan
from qact.datasets.streams.plans import PLANS, ROUNDS
from qact.datasets.streams.stream import Batch, Step, Stream, Transform, spoilt

__all__ = ["PLANS", "ROUNDS", "Batch", "Step", "Stream", "names", "spoilt", "stream"]


def stream(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int = 64,
    corruptions: Sequence[str] = corruptions(),
    severity: int = 5,
    seed: int = 0,
    transform: Transform | None = None,
) -> Stream:
    """Plan a stream; iterate it for ``(x, y, condition)``.

    - ``iid``: one corruption after the other, images in random order.
    - ``sorted``: the same, sorted by label.
    - ``dirichlet``: labels correlated in time, as in NOTE (arXiv 2208.05117): each class is spread
      over as many slots as there are classes by shares drawn from Dirichlet(0.1).
    - ``imbalanced``: a long tail, the most frequent class ten times the rarest.
    - ``garbage``: i.i.d. batches with bursts between them: black, NaN, one frame repeated; after
      the last one, where there are fewer batches than bursts.
    - ``mixed``: all pairs of image and corruption in random order, so a batch holds many kinds.
    - ``continual``: the corruptions one after the other, without a new start.
    - ``recurring``: the same, three times round.
    - ``gradual``: within each corruption the severity rises from 1 to 5.

    Args:
        name: see above.
        images: floating (N, C, H, W) in [0, 1].
        labels: (N,) integer.
        batch: images per batch, from 1 on; the last of a condition may be smaller.
        corruptions: names of :func:`qact.shift.corruptions`, in their order.
        severity: 0 to 5, where it does not rise by itself.
        seed: of order, choice and corruptions.
        transform: applied to every batch last, such as a normalisation.

    Raises:
        ValueError: unknown name, sizes that do not fit, no corruption, or a severity out of range.
        TypeError: images or labels of another dtype, or ``transform`` cannot be called.

    Example:
        >>> images, labels = torch.rand(8, 1, 16, 16), torch.arange(8) % 2
        >>> for x, y, condition in stream("sorted", images, labels, batch=4, corruptions=["fog"]):
        ...     print(tuple(x.shape), y.tolist(), condition)
        (4, 1, 16, 16) [0, 0, 0, 0] fog-5
        (4, 1, 16, 16) [1, 1, 1, 1] fog-5
    """
    if name not in PLANS:
        raise ValueError(f"unknown stream {name!r}; known: {', '.join(PLANS)}")
    check_images(images)
    _check_labels(labels, len(images))
    if isinstance(corruptions, str) or not corruptions:
        raise ValueError(f"corruptions={corruptions!r} must name at least one corruption in a list")
    for one in corruptions:
        corrupt(images[:0], one, severity)  # refuses what it does not know
    if transform is not None and not callable(transform):
        raise TypeError(f"transform={transform!r} must be a function of a batch")
    draw = torch.Generator().manual_seed(checks.integer("seed", seed))
    conditions = [(one, int(severity)) for one in corruptions]
    plan = Plan(labels, conditions, checks.integer("batch", batch, 1), draw)
    make, fresh = PLANS[name]
    return Stream(name, images, labels, make(plan), seed=seed, transform=transform, fresh=fresh)


def _check_labels(labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an integer tensor, got {got}")
    if labels.shape != (count,) or count == 0:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected ({count},), N >= 1")


def names() -> list[str]:
    """Return the streams that :func:`stream` knows.

    >>> names()[:3]
    ['iid', 'sorted', 'dirichlet']
    """
    return list(PLANS)
