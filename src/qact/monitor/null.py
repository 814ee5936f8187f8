"""How far sound windows are from their reference, by chance: distances of drawn windows.

All of it is in the distribution functions of single images, ``F_i``: a window of sound images has
the mean of ``n`` of them. So windows of ``n`` images and references of ``N`` images are drawn, both
with replacement from those of the reference (Efron and Tibshirani 1993, section 16.2), all signals
in the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qact.monitor.distance import Signal


@dataclass(frozen=True)
class Null:
    """Distances of sound windows: ``distances`` (S, B) and their ``furthest`` (B,), both sorted."""

    distances: Tensor
    furthest: Tensor

    @classmethod
    def drawn(
        cls, signals: Sequence[Signal], size: int, images: int, draws: int, seed: int
    ) -> Null:
        """Draw windows of ``size`` images, and references of ``images``."""
        generator = torch.Generator().manual_seed(seed)
        kept = len(signals[0].below)
        shrink = (kept / images) ** 0.5  # spread of a reference of all images, by one of the kept
        parts = []
        for start in range(0, draws, 500):
            count = min(500, draws - start)
            window = _counts(count, size, kept, generator) / size
            again = _counts(count, kept, kept, generator) / kept
            weights = window - shrink * again
            parts.append(torch.stack([signal.drawn(weights) for signal in signals]))
        found = torch.cat(parts, 1)
        ordered = found.sort(1).values
        return cls(ordered, _furthest(ordered, found).sort().values)

    def p_values(self, distances: Tensor) -> tuple[list[float], float]:
        """Of the distance of each signal (S,), and of the furthest of them."""
        each = _tail(self.distances, distances[:, None])[:, 0]
        furthest = _furthest(self.distances, distances[:, None])
        return each.tolist(), float(_tail(self.furthest[None], furthest[None]))


def rounded(images: int) -> int:
    """The first five binary digits."""
    shift = max(images.bit_length() - 5, 0)
    return (images >> shift) << shift


def _counts(draws: int, size: int, kept: int, generator: torch.Generator) -> Tensor:
    """How often each of ``kept`` images is drawn in ``size``, with replacement: (draws, kept)."""
    index = torch.randint(kept, (draws, size), generator=generator, device="cpu")
    blank = torch.zeros(draws, kept, dtype=torch.float32, device="cpu")
    return blank.scatter_add_(1, index, blank.new_ones(()).expand(draws, size))


def _tail(ordered: Tensor, values: Tensor) -> Tensor:
    """``(1 + how many of the row are at least as large) / (1 + B)`` for ``values`` (S, M)."""
    smaller = torch.searchsorted(ordered, values.contiguous())
    return (1 + ordered.shape[1] - smaller).double() / (1 + ordered.shape[1])


def _furthest(ordered: Tensor, distances: Tensor) -> Tensor:
    """The largest of ``distances`` (S, M) over signals, (M,), each in units of its own upper tail.

    No p-values, of which many draws share the least one.
    """
    count = ordered.shape[1]
    middle, far = ordered[:, [count // 2]], ordered[:, [int(0.9 * (count - 1))]]
    return ((distances - middle) / (far - middle).clamp_min(1e-12)).amax(0)
