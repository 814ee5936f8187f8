"""How images come: alike within a call (sorted, correlated), or more varied than the source was.

An image is its mean over positions, per channel. A one-way analysis of variance (Fisher 1925) of
these means, with calls as groups, needs three sums: of the means, of their squares, and of squared
group sums. Consecutive calls are pooled until a group has `LEAST` images.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LEAST = 4


@dataclass
class Grouping:
    """Sums over the images of one stretch of a stream, signal by signal."""

    images: int = 0
    groups: int = 0
    sizes: int = 0  # sum of squared sizes of the groups
    sums: dict[str, Tensor] = field(default_factory=dict)  # of image means, (C,) float64
    squares: dict[str, Tensor] = field(default_factory=dict)
    between: dict[str, Tensor] = field(default_factory=dict)  # squared group sums over group sizes
    _waiting: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, rows: dict[str, Tensor]) -> None:
        """Take in the finite rows (n, C, positions) of a call."""
        self._waiting.append({name: z.double().mean(2) for name, z in rows.items()})
        count = sum(len(next(iter(part.values()))) for part in self._waiting)
        if count < LEAST:
            return
        means = {n: torch.cat([part[n] for part in self._waiting]) for n in self._waiting[0]}
        self._waiting = []
        self.images, self.groups = self.images + count, self.groups + 1
        self.sizes += count**2
        for name, m in means.items():
            total = m.sum(0)
            for kept, new in (
                (self.sums, total),
                (self.squares, m.square().sum(0)),
                (self.between, total.square() / count),
            ):
                kept[name] = kept[name] + new if name in kept else new

    def alike(self, name: str) -> float | None:
        """The intraclass correlation of images of one call, over all channels: 0 if shuffled.

        ``(MSB - MSW) / (MSB + (k - 1) MSW)`` with ``k = (N - sum k_i^2 / N) / (a - 1)`` (Donner
        1986); None for fewer than two groups.
        """
        if self.groups < 2 or self.images <= self.groups:
            return None
        mean = self.sums[name].square() / self.images
        between = float((self.between[name] - mean).sum()) / (self.groups - 1)
        rest = float((self.squares[name] - self.between[name]).sum())
        within = rest / (self.images - self.groups)
        size = (self.images - self.sizes / self.images) / (self.groups - 1)
        whole = between + (size - 1) * within
        return (between - within) / whole if whole > 0 else None

    def variance(self, name: str) -> Tensor:
        """Of the image means of each channel, (C,) float64."""
        mean = self.sums[name].square() / max(self.images, 1)
        return (self.squares[name] - mean) / max(self.images - 1, 1)
