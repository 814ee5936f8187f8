"""Global and shared memory: what lanes read and write, and whether they may.

Outside of what a kernel was given, and at addresses that are no multiple of what is moved, a card
faults: so does this.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ptx.races import Watch, Who
from ptx.values import Lanes


class FaultError(RuntimeError):
    """A lane touched what it may not."""


class Region:
    """Bytes from an address on."""

    def __init__(self, begin: int, data: NDArray, watch: Watch | None = None) -> None:
        self.begin, self.end, self.data, self.watch = begin, begin + data.size, data, watch

    def read(self, at: NDArray, size: int, who: Who) -> Lanes:
        """Numbers of ``size`` bytes, one for each lane."""
        places = at[:, None] + np.arange(size)
        if self.watch:
            self.watch.reads(places, who)
        return np.ascontiguousarray(self.data[places]).view(f"u{size}")[:, 0]

    def write(self, at: NDArray, numbers: Lanes, who: Who) -> None:
        """A number of each lane."""
        size = numbers.dtype.itemsize
        places = at[:, None] + np.arange(size)
        new = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, size)
        if self.watch:
            self.watch.writes(places, who, self.data[places] != new)
        self.data[places] = new
        if np.any(self.data[places] != new):
            raise FaultError("lanes write different numbers to one address")

    def add(self, at: NDArray, numbers: Lanes, who: Who) -> Lanes:
        """Add a number of each lane, one lane after the other; what each of them found there."""
        size = numbers.dtype.itemsize
        if self.watch:
            self.watch.adds(at[:, None] + np.arange(size), who)
        data = self.data[: self.data.size // size * size].view(numbers.dtype)
        order = np.argsort(at, kind="stable")
        words, added = at[order] // size, numbers[order]
        begins = np.flatnonzero(np.r_[True, words[1:] != words[:-1]])
        lengths = np.diff(np.r_[begins, words.size])
        before = np.cumsum(added, dtype=numbers.dtype) - added
        before = before - np.repeat(before[begins], lengths) + data[words]
        np.add.at(data, words, added)
        found = np.empty_like(before)
        found[order] = before
        return found.view(f"u{size}")


class Memory:
    """Regions by address; ``name`` is what a fault calls it."""

    def __init__(self, name: str, regions: list[Region]) -> None:
        self.name = name
        self.regions = sorted(regions, key=lambda region: region.begin)
        self._begins = np.array([region.begin for region in self.regions], np.int64)

    def gather(self, addresses: Lanes, size: int, who: Who) -> Lanes:
        """What stands at these addresses, as numbers of ``size`` bytes."""
        made = np.empty(addresses.size, f"u{size}")
        for region, at, some in self._each(addresses, size):
            made[some] = region.read(at, size, who[some])
        return made

    def scatter(self, addresses: Lanes, numbers: Lanes, who: Who) -> None:
        """Put these numbers at these addresses."""
        for region, at, some in self._each(addresses, numbers.dtype.itemsize):
            region.write(at, numbers[some], who[some])

    def add(self, addresses: Lanes, numbers: Lanes, who: Who) -> Lanes:
        """Add to these addresses; what stood there before."""
        size = numbers.dtype.itemsize
        made = np.empty(addresses.size, f"u{size}")
        for region, at, some in self._each(addresses, size):
            made[some] = region.add(at, numbers[some], who[some])
        return made

    def _each(
        self, addresses: Lanes, size: int
    ) -> Iterator[tuple[Region, NDArray, NDArray | slice]]:
        """One region after another: where in it, and which lanes."""
        if addresses.size == 0:
            return
        if np.any(addresses % size):
            wrong = addresses[addresses % size > 0][0]
            raise FaultError(
                f"{self.name} address {wrong:#x} is no multiple of the {size} bytes moved"
            )
        numbers = np.searchsorted(self._begins, addresses, side="right") - 1
        alone = (numbers == numbers[0]).all()
        for number in numbers[:1] if alone else np.unique(numbers):
            some = slice(None) if alone else np.flatnonzero(numbers == number)
            at = addresses[some]
            region = self.regions[number] if number >= 0 else None
            if region is None or at.max() + size > region.end:
                raise FaultError(f"no tensor has {size} bytes at {self.name} address {at.max():#x}")
            yield region, at - region.begin, some
