"""Who touched a byte last: lanes that meet at one without a barrier between.

A card runs warps and programs in any order. So a byte that one warp writes may not be read or
written by another one until a barrier of their program has passed, nor by another program of the
same launch. To write what is there already disturbs nobody: several programs may come to the same
number and write it, and each may read it behind a barrier of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOBODY, MANY = -1, -2
BARRIERS = 1 << 20  # more than a program passes: numbers the stretches between them apart


class RaceError(RuntimeError):
    """What a card would answer depends on which lane comes first."""


@dataclass(frozen=True)
class Who:
    """The lanes that touch memory together."""

    warp: NDArray  # of the whole grid
    program: NDArray
    stretch: NDArray  # between two barriers of its program

    def __getitem__(self, some: NDArray | slice) -> Who:
        return Who(self.warp[some], self.program[some], self.stretch[some])


class Watch:
    """The last that wrote and read each of so many bytes.

    ``strict``: no program may touch a byte that another one writes. Kernels whose programs hand on
    to each other, by atomics that order what came before, need False.
    """

    def __init__(self, size: int, strict: bool) -> None:
        self.strict = strict
        self.writer, self.reader = (np.full(size, NOBODY, np.int32) for _ in range(2))
        self.written, self.seen = (np.full(size, NOBODY, np.int64) for _ in range(2))
        self.atomic = np.zeros(size, bool)
        # Bytes to which several programs wrote the same: when each of them did.
        self.agreed: dict[int, dict[int, int]] = {}

    def reads(self, places: NDArray, who: Who) -> None:
        """Lanes read bytes (lanes, size)."""
        left = self.writer[places], self.written[places]
        self._meet(places, who, *left, "reads a byte that {} writes")
        warp, stretch = who.warp[:, None], who.stretch[:, None]
        joined = (self.seen[places] == stretch) & (self.reader[places] != warp)
        self.reader[places] = warp
        # Several warps may read a byte, before and now: of an assignment the last stands.
        self.reader[places[joined & (self.reader[places] != NOBODY)]] = MANY
        self.reader[places[self.reader[places] != warp]] = MANY
        self.seen[places] = stretch

    def writes(self, places: NDArray, who: Who, other: NDArray) -> None:
        """Lanes write bytes, some of them ``other`` than what is there."""
        self._meet_others(places, who, other, "writes a byte that {}")
        for place in np.unique(places[other]) if self.agreed else ():
            self.agreed.pop(int(place), None)
        self._agree(places, who, ~other)  # with who wrote it before
        self.writer[places], self.written[places] = who.warp[:, None], who.stretch[:, None]
        self.atomic[places] = False
        self._agree(places, who, np.ones_like(other))  # with who writes it now

    def adds(self, places: NDArray, who: Who) -> None:
        """Lanes add to bytes: other additions are no harm."""
        self._meet_others(places, who, ~self.atomic[places], "adds to a byte that {}")
        self.writer[places], self.written[places] = who.warp[:, None], who.stretch[:, None]
        self.atomic[places] = True

    def _meet_others(self, places: NDArray, who: Who, some: NDArray, what: str) -> None:
        for touched, when, does in (
            (self.writer, self.written, "{} writes"),
            (self.reader, self.seen, "{} reads"),
        ):
            by = np.where(some, touched[places], NOBODY)
            self._meet(places, who, by, when[places], what.format(does))

    def _meet(self, places: NDArray, who: Who, other: NDArray, stretch: NDArray, what: str) -> None:
        """Raise if ``other`` warps touched these bytes in a ``stretch`` that may still go on."""
        touched = other != NOBODY
        if not touched.any():
            return
        bad = touched & (other != who.warp[:, None]) & (stretch == who.stretch[:, None])
        if self.strict:
            bad |= touched & (stretch // BARRIERS != who.program[:, None])
        for lane, byte in np.argwhere(bad):
            own = self.agreed.get(int(places[lane, byte]), {})
            if own.get(int(who.program[lane]), who.stretch[lane]) < who.stretch[lane]:
                continue  # its own program wrote the same, and there was a barrier
            by = other[lane, byte]
            told = what.format("several warps" if by == MANY else f"warp {by}")
            told = f"warp {who.warp[lane]} of program {who.program[lane]} {told}"
            raise RaceError(f"{told}, {places[lane, byte]}, without a barrier between")

    def _agree(self, places: NDArray, who: Who, some: NDArray) -> None:
        """Keep which programs wrote the same to a byte, and when."""
        foreign = self.written[places] // BARRIERS != who.program[:, None]
        if not foreign.any():
            return
        for lane, byte in np.argwhere(some & foreign & (self.writer[places] != NOBODY)):
            place = int(places[lane, byte])
            wrote, first = self.agreed.setdefault(place, {}), int(self.written[place])
            wrote.setdefault(first // BARRIERS, first)
            wrote.setdefault(int(who.program[lane]), int(who.stretch[lane]))
