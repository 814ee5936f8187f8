"""What a batch, an epoch or a fleet of machines knows about its channels: counts on a dyadic grid.

Each bin holds two numbers: its ``mass`` (how many values fell in) and its ``moment`` (the sum of
their positions inside the bin, in bin widths, in [0, 1] each). The moment makes everything read off
the histogram second-order accurate, keeps tied values where they are, and is what gradients flow
through: the mass is an integer, the moment moves with every value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qact._compat import replace
from qact.rank import tails as _far
from qact.rank.grid import LIMITS, PARTS, Grid, at_least, power_of_two, spanning, union


@dataclass(frozen=True)
class Histogram:
    """A context as plain tensors: ``mass`` and ``moment`` (C, bins), ``mean`` and ``std`` (C,).

    ``tails``, where they are known, are its extreme values, see `qact.rank.tails`.
    """

    mass: Tensor
    moment: Tensor
    grid: Grid
    mean: Tensor
    std: Tensor
    tails: Tensor | None = None

    @property
    def count(self) -> Tensor:
        """Total mass per channel (C,): the number of values, or their decayed number."""
        return self.mass.sum(1)

    @property
    def spread(self) -> Tensor:
        """Which channels (C,) are not constant up to rounding: these rank, the others give 1/2."""
        return varied(self.mean, self.std)

    def detach(self) -> Histogram:
        """The same numbers as constants, for gradients that leave the context alone."""
        return replace(
            self, moment=self.moment.detach(), mean=self.mean.detach(), std=self.std.detach()
        )

    def to(self, dtype: torch.dtype) -> Histogram:
        """The same numbers in another floating dtype."""
        moved = {k: getattr(self, k).to(dtype) for k in ("mass", "moment", "mean", "std")}
        return replace(self, **moved)

    def scaled(self, factor: float | Tensor) -> Histogram:
        """Every mass multiplied by ``factor`` (a number, or one per channel): decay, or a prior."""
        column = factor[:, None] if isinstance(factor, Tensor) else factor
        return replace(self, mass=self.mass * column, moment=self.moment * column, tails=None)

    def occupied(self) -> tuple[Tensor, Tensor]:
        """First and one-past-last absolute cell with mass, per channel; (0, 0) where none has."""
        full = self.mass > 0
        index = torch.arange(self.grid.bins, device=full.device)
        some = full.any(1)
        first = torch.where(full, index, self.grid.bins).amin(1) + self.grid.offset
        last = torch.where(full, index, -1).amax(1) + 1 + self.grid.offset
        return torch.where(some, first, 0), torch.where(some, last, 0)


def varied(mean: Tensor, std: Tensor) -> Tensor:
    """Whether a channel's spread is more than its dtype's rounding, or than the smallest bins."""
    return std > (torch.finfo(std.dtype).eps * mean.abs()).clamp_min(narrowest(std.dtype))


def narrowest(dtype: torch.dtype) -> float:
    """The spread up to which a channel is constant: 2^10 of the finest bins."""
    return 2.0 ** (LIMITS[dtype][0] + 10)


def empty(
    channels: int, bins: int, *, dtype: torch.dtype, device: torch.device | str | None
) -> Histogram:
    """A context that has seen nothing."""
    zeros = torch.zeros(channels, dtype=dtype, device=device)
    blank = torch.zeros(channels, bins, dtype=dtype, device=device)
    index = torch.zeros(channels, dtype=torch.int64, device=device)
    return Histogram(
        blank, blank.clone(), Grid(index.int(), index - bins // 2, bins), zeros, zeros.clone()
    )


# What of a histogram with tails stands in its bins alone, moved to another grid: mass and moment.
Settle = Callable[["Histogram", Tensor, Tensor, Grid], tuple[Tensor, Tensor]]


def merge(
    a: Histogram, b: Histogram, bins: int | None = None, *, settle: Settle | None = None
) -> Histogram:
    """The context of both sets of values together, on the finest grid that holds them.

    Exact on integer masses: associative, commutative, equal to the histogram of the joined values
    on the same grid. Where both know their tails, that grid follows the bulk, and the sum is in
    float64; ``settle`` may then be a compiled :func:`settled`.
    """
    bins = bins or max(a.grid.bins, b.grid.bins)
    tails_a, tails_b = _tails(a, b, bins), _tails(b, a, bins)
    if tails_a is None or tails_b is None:
        return merge_on(_joint_grid(a, b, bins), a, b)
    return _merge_tailed(a, b, (tails_a, tails_b), settle or settled)


def _merge_tailed(
    a: Histogram, b: Histogram, tails: tuple[Tensor, Tensor], settle: Settle
) -> Histogram:
    count_a, count_b = (part.mass.sum(1, dtype=torch.float64).round() for part in (a, b))
    joint, every, known = _far.united(*tails, count_a, count_b)
    low, high = _far.extent(joint, count_a + count_b)
    grid = spanning(low, high, a.grid.bins, a.mean.dtype)
    parts = (a, tails[0], count_a), (b, tails[1], count_b)
    for part, own, count in parts:  # values in bins alone keep their bins
        least = torch.where(count > own.shape[1], part.grid.exponent, grid.exponent)
        grid = at_least(grid, least, low, high)
    mass, moment = _far.pour(every, known, grid)
    for part, own, count in parts:
        core = settle(part, own, count, grid)
        mass, moment = mass.add_(core[0]), moment.add_(core[1])
    mean, std = (t.to(a.mean.dtype) for t in _joint_moments(a, b, count_a, count_b))
    for none, full in ((count_a == 0, b), (count_b == 0, a)):  # no rounding by adding nothing
        mean, std = torch.where(none, full.mean, mean), torch.where(none, full.std, std)
    return Histogram(mass, moment, grid, mean, std, joint)


def settled(
    histogram: Histogram, tails: Tensor, count: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """What of ``count`` (C,) values stands in bins alone, not in ``tails``, on another ``grid``.

    Returns:
        Mass and moment (C, bins), float64.

    Raises:
        RuntimeError: the tails are not of these bins.
    """
    known = torch.arange(tails.shape[1], device=tails.device) < count[:, None]
    values = tails.where(known, 0.0)
    poured = _far.pour(tails, known, histogram.grid)
    mass = histogram.mass - poured[0]
    # Whether a subnormal number is below zero depends on the thread's mode (flush to zero), which
    # other libraries change: it may have been counted on the other side. The sum stays right.
    subnormal = ((values != 0) | values.signbit()) & (values.abs() < torch.finfo(values.dtype).tiny)
    if bool(((mass < -0.5) & ~subnormal.any(1, keepdim=True)).any()):
        raise foreign_tails()
    moment = (histogram.moment - poured[1]).clamp_min(0).minimum(mass)  # float32 has rounded
    core = regrid(replace(histogram, mass=mass, moment=moment), grid)
    return core.mass, core.moment


def foreign_tails() -> RuntimeError:
    """The error for tails that hold what no bin has."""
    return RuntimeError("a context's tails are not of its bins: it was changed from outside")


def with_tails(seen: Histogram, tails: Tensor) -> Histogram:
    """The histogram of a batch, with its ``tails`` at their exact places, float64."""
    known = torch.arange(tails.shape[1], device=tails.device) < seen.count.round()[:, None]
    rounded, exact = (_far.pour(tails, known, seen.grid, p) for p in (PARTS, None))
    moment = seen.moment.double() - rounded[1] + exact[1]
    return replace(seen, mass=seen.mass.double(), moment=moment, tails=tails)


def _tails(of: Histogram, other: Histogram, bins: int) -> Tensor | None:
    """What is known of the extremes; of an empty context, all: there are none."""
    if of.grid.bins != bins or of.tails is not None:
        return of.tails if of.grid.bins == bins else None
    if other.tails is None or bool((of.count > 0).any()):
        return None
    return other.tails.new_full((len(of.mass), _far.ALL), torch.inf)


def merge_on(grid: Grid, a: Histogram, b: Histogram) -> Histogram:
    """Both histograms together on a given ``grid``."""
    a, b = regrid(a, grid), regrid(b, grid)
    mean, std = _joint_moments(a, b, a.count, b.count)
    return Histogram(a.mass + b.mass, a.moment + b.moment, grid, mean, std)


def padded(histogram: Histogram, margin: Tensor) -> Histogram:
    """The same mass on a grid of twice the bins, with room of ``margin`` (C,) on both sides.

    Coarser than the old grid only if the margin asks for it.
    """
    old = histogram.grid
    cells = (margin.double() / old.width(torch.float64)).nan_to_num(0.0).ceil()
    cells = cells.clamp(0, 2.0**40).long()
    first, last = histogram.occupied()
    room = (old.exponent, first - cells, last + cells)
    return regrid(histogram, union(*room, *room, 2 * old.bins))


def regrid(histogram: Histogram, grid: Grid) -> Histogram:
    """Move the mass to ``grid``: exact where that is coarser and wide enough.

    Cells outside collect in the end bins. A finer grid receives each old bin's mass in one cell,
    at its mean, so nothing is invented between.
    """
    if grid is histogram.grid:
        return replace(histogram, tails=None)
    old = histogram.grid
    index = torch.arange(old.bins, device=old.offset.device) + old.offset[:, None]
    halvings = (grid.exponent - old.exponent)[:, None]
    wider = halvings >= 0
    up_cell, up_moment = _coarser(histogram, index, halvings.clamp(0, 62))
    down_cell, down_moment = _finer(histogram, index, (-halvings).clamp(0, 30))
    cell = torch.where(wider, up_cell, down_cell) - grid.offset[:, None]
    target = cell.clamp(0, grid.bins - 1)
    outside = histogram.mass * (cell > target)
    moment = torch.where(cell == target, torch.where(wider, up_moment, down_moment), outside)
    blank = histogram.mass.new_zeros(histogram.mass.shape[0], grid.bins)
    return replace(
        histogram,
        mass=blank.scatter_add(1, target, histogram.mass),
        moment=blank.scatter_add(1, target, moment),
        grid=grid,
        tails=None,
    )


def _coarser(histogram: Histogram, index: Tensor, halvings: Tensor) -> tuple[Tensor, Tensor]:
    """Cells and moments of the old bins on a grid ``2**halvings`` times as wide."""
    cell = index >> halvings
    before = (index - (cell << halvings)).to(histogram.mass.dtype)
    scale = power_of_two(-halvings, histogram.mass.dtype)
    return cell, (histogram.mass * before + histogram.moment) * scale


def _finer(histogram: Histogram, index: Tensor, doublings: Tensor) -> tuple[Tensor, Tensor]:
    """Cells and moments of the old bins' means on a grid ``2**doublings`` times as fine."""
    tiny = torch.finfo(histogram.mass.dtype).tiny
    place = histogram.moment / histogram.mass.clamp_min(tiny)
    place = place * power_of_two(doublings, place.dtype)
    jump = torch.minimum(place.detach().floor().long(), (1 << doublings.long()) - 1)
    return (index << doublings) + jump, histogram.mass * (place - jump)


def recentred(histogram: Histogram) -> Histogram:
    """Mean and spread read off the bins, instead of those that were carried along."""
    mass = histogram.mass.double()
    total = mass.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    index = torch.arange(histogram.grid.bins, device=mass.device) + histogram.grid.offset[:, None]
    inside = histogram.moment.double() / mass.clamp_min(torch.finfo(torch.float64).tiny)
    place = index + inside
    mean = (mass * place).sum(1, keepdim=True) / total
    width = histogram.grid.width(torch.float64)
    std = ((mass * (place - mean) ** 2).sum(1) / total[:, 0]).sqrt() * width
    dtype = histogram.mean.dtype
    return replace(histogram, mean=(mean[:, 0] * width).to(dtype), std=std.to(dtype))


def _joint_grid(a: Histogram, b: Histogram, bins: int) -> Grid:
    """The union of the occupied cells; an empty channel has no say."""
    first_a, last_a = a.occupied()
    first_b, last_b = b.occupied()
    only_a, only_b = last_b == first_b, last_a == first_a
    exponent_a = torch.where(only_b & ~only_a, b.grid.exponent, a.grid.exponent)
    exponent_b = torch.where(only_a & ~only_b, a.grid.exponent, b.grid.exponent)
    first_a, last_a = torch.where(only_b, first_b, first_a), torch.where(only_b, last_b, last_a)
    first_b, last_b = torch.where(only_a, first_a, first_b), torch.where(only_a, last_a, last_b)
    return union(exponent_a, first_a, last_a, exponent_b, first_b, last_b, bins)


def _joint_moments(
    a: Histogram, b: Histogram, count_a: Tensor, count_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the union (Chan, Golub, LeVeque 1979), overflow-free."""
    total = (count_a + count_b).clamp_min(torch.finfo(count_a.dtype).tiny)
    ours, theirs = count_a / total, count_b / total
    gap = b.mean - a.mean
    mean = a.mean * ours + b.mean * theirs
    unit = torch.maximum(torch.maximum(a.std, b.std), gap.abs()).detach()
    unit = unit.clamp_min(torch.finfo(unit.dtype).tiny)
    variance = (
        (a.std / unit) ** 2 * ours
        + (b.std / unit) ** 2 * theirs
        + (gap / unit) ** 2 * ours * theirs
    )
    return mean, unit * _safe_sqrt(variance)


def _safe_sqrt(variance: Tensor) -> Tensor:
    """The square root, with gradient zero (not infinite) at zero."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
