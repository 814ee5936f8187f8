"""Which samples of a batch are seeds: some of each class, at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def choose_seeds(
    labels: Tensor, count: int | float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return (N,) bool: ``count`` random samples of each class that is present.

    Args:
        labels: (N,) integer; a negative label says that the class is not known: never a seed.
        count: an integer of at least 1, or a share in (0, 1) of each class, rounded down, of
            which at least one sample. A class with fewer samples gives all of them.
        generator: source of the choice; torch's global one if None.

    Raises:
        ValueError: ``count`` is neither.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, -1])
        >>> chosen = choose_seeds(labels, 2)
        >>> [int(chosen[labels == c].sum()) for c in (0, 1, -1)]
        [2, 1, 0]
    """
    whole = isinstance(count, int) and not isinstance(count, bool) and count >= 1
    if not whole and not (isinstance(count, float) and 0 < count < 1):
        raise ValueError(f"seeds={count!r} must be an integer >= 1 or a share in (0, 1) per class")
    device = labels.device
    noise_device = device if generator is None else generator.device
    noise = torch.rand(
        len(labels), generator=generator, device=noise_device, dtype=torch.float32
    ).to(device)
    shuffled = noise.argsort()
    order = shuffled[labels[shuffled].argsort(stable=True)]  # by class, at random within it
    _, inverse, size = labels.unique(return_inverse=True, return_counts=True)
    start = size.cumsum(0) - size
    place = torch.arange(len(labels), device=device) - start[inverse[order]]
    quota = size.new_full(size.shape, int(count))
    if not whole:
        quota = torch.tensor([max(1, math.floor(count * int(s))) for s in size], device=device)
    chosen = torch.empty_like(labels, dtype=torch.bool)
    chosen[order] = place < quota[inverse[order]]
    return chosen & (labels >= 0)
