"""What a launch issues and moves, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptx.warps import WARP

SECTOR, BANKS, WORD = 32, 32, 4
ROW = BANKS * WORD  # bytes that shared memory gives in one turn


@dataclass
class Counts:
    """Of all warps of a launch.

    Attributes:
        issued: instructions, of warps in which at least one lane runs them.
        moved: bytes of global memory, in the sectors of 32 that a warp touches at once.
        shared: turns of shared memory: two words of one bank take two.
        atomics: turns of its atomics, if lanes at one address come one after the other.
    """

    issued: int = 0
    moved: int = 0
    shared: int = 0
    atomics: int = 0

    def instruction(self, mask: NDArray | None, size: int) -> None:
        """One more of every warp that runs."""
        self.issued += size // WARP if mask is None else int(mask.reshape(-1, WARP).any(1).sum())

    def global_memory(self, warp: NDArray, at: NDArray, size: int) -> None:
        """Lanes of these warps touch ``size`` bytes each."""
        spans = -(-size // SECTOR)
        sectors = at[:, None] // SECTOR + np.arange(spans)
        self.moved += SECTOR * len(_distinct(np.repeat(warp, spans), sectors.reshape(-1)))

    def shared_memory(self, warp: NDArray, at: NDArray, size: int, atomic: bool) -> None:
        """The same of shared memory."""
        # More than a row takes several turns: a part of the lanes in each.
        beside = max(1, ROW // size)
        words = at[:, None] // WORD + np.arange(max(1, size // WORD))
        order = np.argsort(warp, kind="stable")
        place = np.empty_like(order)
        begins = np.flatnonzero(np.r_[True, np.diff(warp[order]) > 0])
        place[order] = np.arange(warp.size) - np.repeat(begins, np.diff(np.r_[begins, warp.size]))
        turn = np.repeat(warp * WARP + place // beside, words.shape[1])
        words = words.reshape(-1)
        if not atomic:
            pairs = _distinct(turn, words)
            turn, words = pairs[:, 0], pairs[:, 1]
        groups, each = np.unique(turn * BANKS + words % BANKS, return_counts=True)
        most = np.zeros(groups.max() // BANKS + 1, np.int64)
        np.maximum.at(most, groups // BANKS, each)
        if atomic:
            self.atomics += int(most.sum())
        else:
            self.shared += int(most.sum())


def _distinct(a: NDArray, b: NDArray) -> NDArray:
    return np.unique(np.stack([a, b], -1), axis=0)
