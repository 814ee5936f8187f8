"""How a tensor is cut into programs, and what a plan says to a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qact.kernels.columns import COARSE, FEW, FINENESS, KERNEL, MOST, REACH
from qact.kernels.plan import KINDS, Plan

# Values in a tile; channels side by side where L is one; values that one program may work through.
TILE, FEATURES, ALONE = 2048, 32, 16384
# Programs per multiprocessor, and at most so many for one channel.
WAVES, SPLITS = 8, 256


@dataclass(frozen=True)
class Cut:
    """Of a tensor (N, C, L): ``n`` values a channel, ``groups`` of channels, ``splits`` of each."""

    channels: int
    inner: int
    n: int
    groups: int
    splits: int
    per: int
    shape: dict[str, int]

    @property
    def grid(self) -> tuple[int, int]:
        """One program for each split of each group."""
        return self.groups, self.splits

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels, inner size, and values per channel."""
        return self.channels, self.inner, self.n

    @property
    def plane(self) -> dict[str, int]:
        """The shape of a tile of one channel."""
        return {name: self.shape[name] for name in ("ROWS", "V")}

    @property
    def power(self) -> dict[str, int]:
        """As many splits as one kernel reads at once."""
        return {"SPLITS": _power(self.splits)}

    @property
    def alone(self) -> bool:
        """Whether one program works through a channel."""
        return self.shape["K"] == 1 and self.splits == 1


def cut(z: Tensor) -> Cut:
    """Cut a tensor (N, C, L) for its device."""
    return _cut(*z.shape, _processors(z.device))


@lru_cache(maxsize=1024)
def _cut(outer: int, channels: int, inner: int, processors: int) -> Cut:
    n = outer * inner
    if n >= 2**30:
        raise ValueError(f"a channel of {n} values is too long; at most {2**30 - 1} are counted")
    if n <= ALONE:
        side = _neighbours(inner)
        shape = {"ROWS": min(TILE, _power(n)) // min(side, _power(n)), "V": side, "K": 1}
        return Cut(channels, inner, n, channels, 1, -(-n // TILE), shape)
    side, k = (1, FEATURES) if inner == 1 else (_neighbours(inner), 1)
    rows = TILE // (side * k)
    groups, tiles = -(-channels // k), -(-n // (rows * side))
    splits = min(tiles, SPLITS, max(1, WAVES * processors // groups))
    per = -(-tiles // splits)
    shape = {"ROWS": rows, "V": side, "K": k}
    return Cut(channels, inner, n, groups, -(-tiles // per), per, shape)


def _neighbours(inner: int) -> int:
    """The largest power of two, to 128, that divides ``inner``."""
    return min(inner & -inner, 128)


def _power(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=64)
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # Triton's interpreter: few programs, one after the other
    return torch.cuda.get_device_properties(device).multi_processor_count


@dataclass(frozen=True)
class Words:
    """A plan for ``n`` values a channel, in a kernel's words: run-time numbers, and constants."""

    kind: int
    norm_in: bool
    norm_out: bool
    eps_in: float
    eps_out: float
    absolute: float
    factor: float
    relative: bool
    grounded: int
    sentinels: float
    full: bool
    block: int

    @property
    def columns(self) -> int:
        """Numbers in a channel's tables."""
        return 2 * self.block


@lru_cache(maxsize=1024)
def words(plan: Plan, n: int) -> Words:
    """What the kernels need to know of a plan."""
    rule, h = plan.rule, plan.rule.bandwidth
    factor = h.relative * n**h.power
    return Words(
        KINDS.index(plan.kind),
        plan.eps_in is not None,
        plan.eps_out is not None,
        plan.eps_in or 0.0,
        plan.eps_out or 0.0,
        h.absolute,
        factor,
        h.relative > 0,
        rule.grounding,
        rule.sentinels,
        rule.gradient == "full",
        _block(n, h.absolute, factor),
    )


def _block(n: int, absolute: float, factor: float) -> int:
    """Columns of a channel's tables, a power of two: its bins, and two more.

    ``n`` values span at most ``sqrt(2 n)`` of their standard deviations, and a bin is wider than
    ``1 / (2 FINENESS)`` bandwidths. Constant channels need no more than that times 4.
    """
    if absolute > 0 or factor <= 0:
        return _power(MOST + 2)
    span, fineness = min(2 * REACH, math.sqrt(2 * n)), FINENESS if n >= FEW else COARSE
    # A continuous grounded rank reaches out for zero, as far as its kernel does.
    wanted = max(2 * fineness * (span / factor + KERNEL), 4 * math.sqrt(2 * n))
    return max(min(_power(int(wanted) + 8), _power(MOST + 2)), 64)


def options(words: Words, *names: str) -> dict[str, Any]:
    """The constants of a kernel by their names."""
    return {name: getattr(words, name.lower()) for name in names}
