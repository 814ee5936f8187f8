"""How a tensor is cut into programs, and what a plan says to a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from qact.kernels.columns import COARSE, FEW, FINENESS, KERNEL, MOST, REACH, UnusableError
from qact.kernels.plan import KINDS, Plan

# Values in a tile; channels side by side where L is one; values that one program may work through.
TILE, FEATURES, ALONE = 1024, 16, 16384
# Programs per multiprocessor, and at most so many for one channel.
WAVES, SPLITS = 8, 128
# Whether histograms are counted by atomics of shared memory, one a value. Before, every lane looked
# for each of its bins among the values: see `findings/triton-histogram-by-bins.sh`.
HISTOGRAM = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8)
# Values that are counted at once, and channels side by side: by histograms and by products. A
# histogram has a slot for each digit and bin, so reading it is shared by as many values as
# registers hold. Products of eight channels read 32 bytes of float32, as a card does at least.
TALLIED, BESIDE = 8192, 4
COUNTED, TOGETHER = 128, 8
# Values that are sorted in registers; levels that one program looks for, and sorted runs that it
# holds side by side. A channel alone in a program has few runs, and so all levels in one go.
RUN, LEVELS, RUNS, ALL = 2048, 16, 256, 128
# A bin's count has the bits that its places leave of 63; see `qact.kernels.triton.constants`.
TOO_MANY = 2 ** (63 - 36)


@dataclass(frozen=True)
class Cut:
    """Of a tensor (N, C, L): ``n`` values a channel, ``groups`` of channels, ``splits`` of each."""

    channels: int
    inner: int
    n: int
    groups: int
    splits: int
    per: int
    rows: int
    side: int
    together: int
    warps: int = 4
    histogram: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """One program for each split of each group."""
        return self.groups, self.splits

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels, inner size, and values per channel."""
        return self.channels, self.inner, self.n

    @cached_property
    def shape(self) -> dict[str, int]:
        """The shape of a tile."""
        return {"ROWS": self.rows, "V": self.side, "K": self.together, "num_warps": self.warps}

    def counting(self, what: Words) -> dict[str, int]:
        """The same of a pass that counts values, and how many bins at once."""
        # A value's place takes eight digits a bin: of several channels there is room for 512 bins.
        return {**self.fine.shape, **self._bins(what.span if self.together == 1 else 512)}

    def weighing(self, what: Words) -> dict[str, int]:
        """The same of a pass that adds up gradients."""
        return {**self.fine.shape, **self._bins(what.span)}

    def plane(self, what: Words) -> dict[str, int]:
        """The same of a program that has a channel to itself, and the rows of what it counts."""
        return {"ROWS": self.rows, "V": self.side, "FINE": self.fine.rows, **self._bins(what.span)}

    def _bins(self, span: int) -> dict[str, int]:
        """How bins are counted, and how many at once; by products 512."""
        return {"SPAN": span if self.histogram else 512, "HISTOGRAM": self.histogram}

    @cached_property
    def sorting(self) -> dict[str, int]:
        """How a channel is sorted: in runs of so many values, of which V are neighbours."""
        run = max(16, min(RUN, _power(self.n)))
        return {"RUN": run, "V": min(_neighbours(self.inner), run)}

    @property
    def runs(self) -> int:
        """How many sorted runs there are."""
        return -(-self.n // self.sorting["RUN"])

    @cached_property
    def seeking(self) -> dict[str, int]:
        """How order statistics are sought: in so many runs at once, and so many of them."""
        levels = ALL if self.alone else LEVELS
        return {"RUN": self.sorting["RUN"], "RUNS": min(RUNS, _power(self.runs)), "J": levels}

    @property
    def alone(self) -> bool:
        """Whether one program works through a channel."""
        return self.together == 1 and self.splits == 1

    @cached_property
    def power(self) -> int:
        """As many splits as one kernel reads at once."""
        return _power(self.splits)

    @cached_property
    def fine(self) -> Cut:
        """The same tensor for passes that count."""
        if self.together > 1:
            return self._beside(*((BESIDE, TALLIED) if self.histogram else (TOGETHER, 2 * COUNTED)))
        # A program that has a channel to itself has four warps: 32 values for every lane.
        most = TALLIED // (2 if self.alone else 1) if self.histogram else COUNTED
        values = min(most, _counted(self.per * self.rows * self.side))
        rows = values // min(self.side, values)
        per = -(-self.per * self.rows // rows)
        splits = -(-self.n // (per * rows * self.side))
        # Of products two warps hold each row of bins once; more would hold it twice.
        warps = max(1, min(16, values // 512)) if self.histogram else 2
        return replace(self, splits=splits, rows=rows, per=per, warps=warps)

    def _beside(self, together: int, values: int) -> Cut:
        """So many channels in a program, and values in a tile."""
        groups, rows = -(-self.channels // together), min(values // together, _counted(self.n))
        tiles, programs = -(-self.n // rows), self.groups * self.splits
        # As bins are many, programs are few: what one hands on is small beside what it reads.
        splits = min(tiles, self.splits, max(1, programs // groups))
        per = -(-tiles // splits)
        splits = -(-tiles // per)
        made = replace(self, groups=groups, splits=splits, per=per, rows=rows)
        return replace(made, together=together, warps=16 if self.histogram else 8)


def cut(z: Tensor, alone: bool = True) -> Cut:
    """Cut a tensor (N, C, L) for its device; ``alone``: small channels go to one program each."""
    return _cut(*z.shape, _processors(z.device), alone)


@lru_cache(maxsize=1024)
def _cut(outer: int, channels: int, inner: int, processors: int, alone: bool = True) -> Cut:
    n = outer * inner
    if n >= 2**30:
        raise ValueError(f"a channel of {n} values is too long; at most {2**30 - 1} are indexed")
    if alone and n <= ALONE:
        side = min(_neighbours(inner), _power(n))
        rows = min(TILE, _power(n)) // side
        per = -(-n // (rows * side))
        return Cut(channels, inner, n, channels, 1, per, rows, side, 1, 4, HISTOGRAM)
    side, k = (1, FEATURES) if inner == 1 else (_neighbours(inner), 1)
    rows = TILE // (side * k)
    groups, tiles = -(-channels // k), -(-n // (rows * side))
    splits = min(tiles, SPLITS, max(1, WAVES * processors // groups))
    per = -(-tiles // splits)
    warps = 4 if k == 1 else 8
    return Cut(channels, inner, n, groups, -(-tiles // per), per, rows, side, k, warps, HISTOGRAM)


def _counted(n: int) -> int:
    """Values of a tile that counts ``n``: no fewer than tensor cores multiply at once."""
    return max(16, _power(n))


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


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run ``kernel`` on ``grid``.

    Nothing is contracted to a fused multiply-add that is not written as one: so places in bins are
    those of the interpreter and of the CPU, and all kernels agree on where a value stands.

    Raises:
        UnusableError: where it does not compile, or not for this card.
    """
    try:
        kernel[grid](*args, enable_fp_fusion=False, **constants)
    except Exception as error:  # no compiler, a card too old, too little shared memory
        raise UnusableError(f"{kernel.__name__} does not run here") from error


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
    steps: int
    block: int
    span: int

    @property
    def warps(self) -> dict[str, int]:
        """Of a program that makes tables: registers for all their columns."""
        return {"num_warps": 4 if self.block < 1024 else 8}

    @property
    def columns(self) -> int:
        """Numbers in a channel's tables."""
        return 2 * self.block

    def options(self, *names: str) -> dict[str, Any]:
        """The constants of a kernel by their names; made once, and not to be changed."""
        made: dict[tuple[str, ...], dict[str, Any]] = vars(self).setdefault("_made", {})
        if names not in made:
            made[names] = {name: getattr(self, name.lower()) for name in names}
        return made[names]


def words(plan: Plan, n: int) -> Words:
    """What the kernels need to know of a plan; kept with it, for hashing one costs microseconds."""
    known: dict[int, Words] = vars(plan).setdefault("_words", {})
    if n not in known:
        known[n] = _words(plan, n)
    return known[n]


def _words(plan: Plan, n: int) -> Words:
    if n >= TOO_MANY:
        most = f"at most {TOO_MANY - 1} are counted, and more by engine='eager'"
        raise ValueError(f"a channel of {n} values is too long; {most}")
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
        plan.steps,
        _block(n, h.absolute, factor),
        _span(n, h.absolute, factor),
    )


def _span(n: int, absolute: float, factor: float) -> int:
    """Bins that are counted at once: as many as a channel of normal values usually has.

    It spans ``2 sqrt(2 ln n)`` standard deviations. Bins are as fine as asked or up to twice as
    fine, as their width is a power of two; 1 / ln 2 on average over the logarithm of a spread.
    """
    if absolute > 0 or factor <= 0:
        return 512
    fineness = FINENESS if n >= FEW else COARSE
    usual = fineness / math.log(2) * 2 * math.sqrt(2 * math.log(n)) / factor
    return 512 if usual <= 512 else 1024


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
