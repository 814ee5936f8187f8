"""Ranks from a histogram in plain PyTorch: one pass to count, one small table, one pass to look up.

    histogram of z  ->  rank at the grid's edges  ->  level at the edges  ->  interpolate at z

Two operations touch the data, `_Count` and `_Lookup`; everything between them works on
(channels, bins) tables and is differentiated by autograd. The gradient through `_Lookup` alone is
the paper's (``density``); adding what flows through `_Count` gives the ``full`` one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qact.bandwidth import SMALLEST_STD
from qact.grid import Grid, spanning
from qact.histogram import Histogram
from qact.kernels import reference
from qact.levels import Level
from qact.rule import Rule

# Positions inside a bin are counted in 256ths, so that sums are integers: the same in any order.
PARTS = 256
# By Chebyshev at most 1/400 of the mass lies further out than this many standard deviations.
REACH = 20.0
# Fewer bins for short contexts, whose bandwidth is wide; heavy tails of long ones need more.
BINS, LONG_BINS, LONG = 1024, 2048, 8192


def observe(z: Tensor, rule: Rule, bins: int | None = None) -> Histogram:
    """The context of a batch (N, C, L), differentiable through moment, mean and std.

    A channel that holds something not finite has a mean and spread that are not numbers, and so
    have all ranks in it.
    """
    bins = bins or (BINS if z.shape[0] * z.shape[2] < LONG else LONG_BINS)
    z = z if z.dtype == torch.float64 else z.float()
    low, high = z.detach().amin((0, 2)), z.detach().amax((0, 2))
    finite = torch.isfinite(low) & torch.isfinite(high)
    low, high = torch.where(finite, low, 0), torch.where(finite, high, 0)
    mean, std = _Moments.apply(z, torch.maximum(low.abs(), high.abs()))
    count = torch.full_like(std, float(z.shape[0] * z.shape[2]))
    grid = _grid(low, high, mean.detach(), std.detach(), count, rule, bins)
    mass, moment = _Count.apply(z, grid)
    nothing = torch.where(finite, 0.0, torch.nan).to(mean.dtype)
    return Histogram(mass, moment, grid, mean + nothing, std + nothing)


def apply(z: Tensor, context: Histogram, level: Level, rule: Rule, *, own: bool = False) -> Tensor:
    """The activation of ``z`` (N, C, L) in a context: level of rank, in the dtype of ``z``.

    ``own`` says that the context is that of ``z`` itself; a step rank is then exact, by sorting.
    """
    dtype = z.dtype
    z = z if dtype == torch.float64 else z.float()
    context = (context.detach() if rule.gradient == "density" else context).to(z.dtype)
    knots = rank_table(context, rule)
    count = context.count.detach()[:, None]
    if rule.smooth and level.interpolable:
        return _Lookup.apply(z, level(knots, count), context.grid).to(dtype)
    rank = _Lookup.apply(z, knots, context.grid)
    if not rule.smooth:
        exact = _sorted_rank(z, rule) if own else step_rank(z, context, rule)
        rank = rank + (exact - rank).detach()
    ranks = rank.transpose(0, 1)
    value = level(ranks.flatten(1), count).reshape(ranks.shape)
    return value.transpose(0, 1).to(dtype)


def rank_table(histogram: Histogram, rule: Rule) -> Tensor:
    """The smooth rank at the edges of the grid, (C, bins + 1)."""
    edges, low = edge_weights(histogram, rule)
    width = histogram.grid.width(edges.dtype)
    h = rule.bandwidth.width(histogram.std, histogram.count.detach())
    alive = (histogram.std > SMALLEST_STD) | (rule.bandwidth.relative == 0)
    edges = torch.where(alive[:, None], edges, edges.detach())
    ratio = width / torch.where(alive, h, h.detach()).clamp_min(1e-3 * width)
    first = low + (edges * torch.special.ndtr(-_count_up(edges) * ratio[:, None])).sum(1)
    cells = _smooth(edges, ratio)
    rank = torch.cat([first[:, None], cells], 1).cumsum(1).clamp(0, 1)
    return rank + histogram.std.detach()[:, None] * 0  # an unfinished channel (nan) stays one


def density(z: Tensor, context: Histogram, rule: Rule) -> Tensor:
    """``f_h(z)`` for ``z`` (N, C, L): the slope of the rank table."""
    wide = z if z.dtype == torch.float64 else z.float()
    return _slope_at(wide, rank_table(context.to(wide.dtype), rule).diff(dim=1), context.grid).to(
        z.dtype
    )


def quantile(context: Histogram, q: Tensor, rule: Rule) -> Tensor:
    """The inverse of the rank, (C, Q): linear inside a bin, the outermost edges beyond the mass."""
    scale, low = bin_weights(context, rule)
    before = torch.nn.functional.pad((context.mass * scale).cumsum(1), (1, 0)) + low[:, None]
    wanted = q.expand(before.shape[0], -1).contiguous()
    cell = torch.searchsorted(before, wanted).clamp(1, context.grid.bins)
    left, right = before.gather(1, cell - 1), before.gather(1, cell)
    place = ((wanted - left) / (right - left).clamp_min(1e-30)).clamp(0, 1)
    width = context.grid.width(q.dtype)[:, None]
    return (context.grid.offset[:, None] + cell - 1 + place) * width


def edge_weights(histogram: Histogram, rule: Rule) -> tuple[Tensor, Tensor]:
    """Bin weights split between their edges (C, bins + 1), and the mass at -infinity (C,)."""
    scale, low = bin_weights(histogram, rule)
    right = histogram.moment * scale
    left = histogram.mass * scale - right
    pad = torch.nn.functional.pad
    return pad(left, (0, 1)) + pad(right, (1, 0)), low


def bin_weights(histogram: Histogram, rule: Rule) -> tuple[Tensor, Tensor]:
    """The weight of one value in each bin (C, bins or 1), and the mass at minus infinity (C,)."""
    tiny = torch.finfo(histogram.mass.dtype).tiny
    if not rule.grounded:
        count = histogram.count.clamp_min(tiny)
        return (1 / count)[:, None], torch.zeros_like(count)
    below = histogram.grid.negative()
    negative = (histogram.mass * below).sum(1)
    positive = histogram.count - negative + rule.sentinels
    share = negative / (negative + rule.sentinels).clamp_min(tiny)
    per_value = torch.where(below, (negative + rule.sentinels)[:, None], positive[:, None])
    return 0.5 / per_value.clamp_min(tiny), 0.5 * (1 - share)


def step_rank(z: Tensor, histogram: Histogram, rule: Rule) -> Tensor:
    """``F(z)``, ties in full: a bin counts from the mean of what fell into it."""
    scale, low = bin_weights(histogram, rule)
    weight = histogram.mass * scale
    before = torch.nn.functional.pad(weight.cumsum(1), (1, 0)) + low[:, None]
    mean = histogram.moment * PARTS / histogram.mass.clamp_min(1e-30)
    cell, place = _locate(z, histogram.grid)
    flat = _flat(cell, histogram.grid.bins)
    # Places are whole 256ths; the mean of equal ones is that number up to rounding.
    reached = (place * PARTS).round() >= mean.flatten()[flat] - 1e-3
    below = before[:, :-1].flatten()[flat]
    rank = below + torch.where(reached, weight.flatten()[flat], 0)
    # Beyond the last edge everything is below.
    return torch.where(place >= 1, before[:, 1:].flatten()[flat], rank)


def _sorted_rank(z: Tensor, rule: Rule) -> Tensor:
    """The step rank of a batch in its own context."""
    values = z.detach().transpose(0, 1)
    rank = reference.rank(values.flatten(1).double(), reference.observe(z.detach()), rule)
    rank = torch.where(torch.isfinite(values.flatten(1)).all(1, keepdim=True), rank, torch.nan)
    return rank.reshape(values.shape).transpose(0, 1).to(z.dtype)


def _grid(
    low: Tensor, high: Tensor, mean: Tensor, std: Tensor, count: Tensor, rule: Rule, bins: int
) -> Grid:
    """Covers the data, at most `REACH` deviations out, and four bandwidths more."""
    mean, std = mean.double().nan_to_num(), std.double().nan_to_num()
    margin = 4 * rule.bandwidth.width(std, count.double()) if rule.smooth else 0 * std
    low = torch.maximum(low.double(), mean - REACH * std) - margin
    high = torch.minimum(high.double(), mean + REACH * std) + margin
    return spanning(low, high, bins)


def _smooth(edges: Tensor, ratio: Tensor) -> Tensor:
    """The mass that the kernel moves into each cell, (C, bins): a convolution, by FFT.

    A weight at edge ``j`` puts ``Phi((k + 1 - j) r) - Phi((k - j) r)`` into cell ``k``, where ``r``
    is the bin width in bandwidths.
    """
    bins = edges.shape[1] - 1
    steps = torch.arange(-bins, bins + 1, device=edges.device, dtype=edges.dtype)
    kernel = torch.special.ndtr(steps * ratio[:, None]).diff(dim=1)
    # Only the last half of the full convolution is wanted, so its wrap-around does no harm.
    spectrum = torch.fft.rfft(edges, 2 * bins) * torch.fft.rfft(kernel, 2 * bins)
    return torch.fft.irfft(spectrum, 2 * bins)[:, bins:].clamp_min(0)


def _count_up(edges: Tensor) -> Tensor:
    return torch.arange(edges.shape[1], device=edges.device, dtype=edges.dtype)


def _locate(z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The bin of each value and its place inside, in [0, 1]; what is not a number goes to bin 0."""
    place = grid.position(z).nan_to_num(0.0).clamp(0, grid.bins)
    cell = place.floor().clamp_max(grid.bins - 1)
    return cell.long(), place - cell


def _flat(cell: Tensor, columns: int) -> Tensor:
    """Index into a (C, columns) table, flattened, for cells laid out as (N, C, L)."""
    return cell + torch.arange(cell.shape[1], device=cell.device)[:, None] * columns


class _Moments(torch.autograd.Function):
    """Mean and population standard deviation per channel, in units that cannot overflow."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        unit = torch.where(unit > 0, unit, 1)
        variance, mean = torch.var_mean(z / unit[:, None], (0, 2), correction=0)
        mean, std = mean * unit, variance.sqrt() * unit
        ctx.save_for_backward(z, mean, std)
        return mean, std

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_std: Tensor) -> tuple[Tensor, None]:
        z, mean, std = ctx.saved_tensors
        n = z.shape[0] * z.shape[2]
        slope = torch.where(std > SMALLEST_STD, grad_std / std, 0) / n
        return grad_mean[:, None] / n + (z - mean[:, None]) * slope[:, None], None


class _Count(torch.autograd.Function):
    """Mass and moment of every bin; a value's position moves its bin's moment."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        ctx.grid = grid
        ctx.save_for_backward(z)
        cell, place = _locate(z, grid)
        # One integer carries both sums: the count in the high half, the places in the low half.
        packed = (place * PARTS).round().long() + (1 << 32)
        total = _scatter(packed, cell, grid.bins)
        mass, parts = total >> 32, total & ((1 << 32) - 1)
        ctx.mark_non_differentiable(mass := mass.to(z.dtype))
        return mass, parts.to(z.dtype) / PARTS

    @staticmethod
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return _slope_at(z, grad, ctx.grid, sided=True), None


class _Lookup(torch.autograd.Function):
    """Linear interpolation in a table of edge values (C, bins + 1)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, table: Tensor, grid: Grid) -> Tensor:
        ctx.grid = grid
        ctx.save_for_backward(z, table)
        cell, place = _locate(z, grid)
        index = _flat(cell, grid.bins + 1)
        flat = table.flatten()
        return torch.lerp(flat[index], flat[index + 1], place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        z, table = ctx.saved_tensors
        cell, place = _locate(z, ctx.grid)
        grad_z = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_z = grad * _slope_at(z, table.diff(dim=1), ctx.grid)
        if ctx.needs_input_grad[1]:
            grad_table = _spread(grad, cell, place, ctx.grid.bins)
        return grad_z, grad_table, None


def _slope_at(z: Tensor, rise: Tensor, grid: Grid, *, sided: bool = False) -> Tensor:
    """The derivative at ``z``, from the rise across each bin (C, bins); zero outside the grid.

    A rise is the slope at its bin's middle, so interpolating between middles is second-order.
    ``sided`` keeps to bins of the same sign: grounded weights jump at zero.
    """
    position = grid.position(z).nan_to_num(0.0)
    cell = position.clamp(0, grid.bins).floor().clamp_max(grid.bins - 1)
    aside = (position - cell - 0.5).clamp(-0.5, 0.5)
    near = (cell + aside.sign()).clamp(0, grid.bins - 1)
    if sided:
        zero = -grid.offset.to(cell.dtype)[:, None]
        near = torch.where((near < zero) == (cell < zero), near, cell)
    slope = (rise / grid.width(rise.dtype)[:, None]).flatten()
    at_cell, at_near = (slope[_flat(t.long(), grid.bins)] for t in (cell, near))
    inside = (position >= 0) & (position <= grid.bins)
    return torch.lerp(at_cell, at_near, aside.abs()) * inside


def _spread(grad: Tensor, cell: Tensor, place: Tensor, bins: int) -> Tensor:
    """The transpose of interpolation: each gradient divided between the edges of its bin.

    Sums run over integers (30 bits of the largest gradient), so that they do not depend on order.
    """
    unit = grad.abs().amax().clamp_min(torch.finfo(grad.dtype).tiny) * 2.0**-30
    whole = _scatter((grad / unit).round().long(), cell, bins)
    right = _scatter((grad * place / unit).round().long(), cell, bins)
    pad = torch.nn.functional.pad
    return (pad(whole - right, (0, 1)) + pad(right, (1, 0))).to(grad.dtype) * unit


def _scatter(values: Tensor, cell: Tensor, bins: int) -> Tensor:
    """Sum of ``values`` (N, C, L) per channel and cell, (C, bins)."""
    channels = cell.shape[1]
    total = torch.zeros(channels * bins, dtype=values.dtype, device=values.device)
    return total.scatter_add_(0, _flat(cell, bins).flatten(), values.flatten()).view(channels, bins)
