"""From a histogram to the table of its ranks: everything here is (channels, bins), never the data.

Plain differentiable PyTorch, shared by every engine that counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.rank.histogram import Histogram
from qact.rank.rule import Rule, side_slopes


def rank_table(histogram: Histogram, rule: Rule) -> Tensor:
    """The smooth rank (kernel estimate of the CDF) at the grid's edges, (C, bins + 1), float64.

    Tables are small; so the ranks next to 0 and 1 keep their normal scores.
    """
    alive = ranked(histogram, rule)  # by the rounding of the context's own dtype
    histogram = histogram.to(torch.float64)
    edges, low = edge_weights(histogram, rule)
    width = histogram.grid.width(edges.dtype)
    h = rule.bandwidth.width(histogram.std, histogram.count.detach())
    edges = torch.where(alive[:, None], edges, edges.detach())
    # A constant channel has no bandwidth; one far beyond its rounding noise centres its rank.
    wide = torch.maximum(4 * width, 64 * histogram.std.detach())
    ratio = width / torch.where(alive, h, wide).clamp_min(1e-3 * width)
    count_up = torch.arange(edges.shape[1], device=edges.device, dtype=edges.dtype)
    tail = torch.special.ndtr(-count_up * ratio[:, None])  # Phi(-k r), for k = 0 ... bins
    first = low + (edges * tail).sum(1)
    cells = _smooth(edges, tail)
    rank = torch.cat([first[:, None], cells], 1).cumsum(1).clamp(0, 1)
    if rule.grounded == "continuous":
        rank = _grounded(rank, histogram, rule)
    return rank + histogram.std.detach()[:, None] * 0  # an unfinished channel (nan) stays one


def _grounded(rank: Tensor, histogram: Histogram, rule: Rule) -> Tensor:
    """Ranks at the edges of the grid, of which zero is one or lies beyond all that has mass."""
    zero, count = -histogram.grid.offset[:, None], histogram.count.detach()[:, None]
    at_zero = rank.gather(1, zero.clamp(0, histogram.grid.bins))
    below = torch.arange(rank.shape[1], device=rank.device) < zero
    return 0.5 + side_slopes(at_zero, below, count, rule.sentinels) * (rank - at_zero)


def ranked(histogram: Histogram, rule: Rule) -> Tensor:
    """Which channels (C,) pass a gradient: all, but constant ones under a bandwidth of theirs."""
    return histogram.spread | (rule.bandwidth.relative == 0)


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
    if rule.grounded != "sides":
        count = histogram.count.clamp_min(tiny)
        return (1 / count)[:, None], torch.zeros_like(count)
    below = histogram.grid.negative()
    # Each side is summed by itself: a running context keeps traces of a side that it saw long ago,
    # and a difference from the whole would be rounding, or nothing.
    negative = (histogram.mass * below).sum(1)
    positive = (histogram.mass * ~below).sum(1)
    share = negative / (negative + rule.sentinels).clamp_min(tiny)
    per_value = torch.where(below, negative[:, None], positive[:, None]) + rule.sentinels
    return 0.5 / per_value.clamp_min(tiny), 0.5 * (1 - share)


def quantile(context: Histogram, q: Tensor, rule: Rule) -> Tensor:
    """The inverse of the rank, (C, Q): linear inside a bin, the outermost full bins beyond."""
    scale, low = bin_weights(context, rule)
    before = torch.nn.functional.pad((context.mass * scale).cumsum(1), (1, 0)) + low[:, None]
    wanted = q.expand(before.shape[0], -1).contiguous()
    cell = torch.searchsorted(before, wanted)
    first, last = context.occupied()
    offset = context.grid.offset[:, None]
    cell = torch.minimum(torch.maximum(cell, first[:, None] - offset + 1), last[:, None] - offset)
    left, right = before.gather(1, cell - 1), before.gather(1, cell)
    place = ((wanted - left) / (right - left).clamp_min(1e-30)).clamp(0, 1)
    width = context.grid.width(q.dtype)[:, None]
    return (offset + cell - 1 + place) * width


def _smooth(edges: Tensor, tail: Tensor) -> Tensor:
    """The mass that the kernel moves into each cell, (C, bins): a convolution, by FFT.

    A weight at edge ``j`` puts ``Phi((k + 1 - j) r) - Phi((k - j) r)`` into cell ``k``, where ``r``
    is the bin width in bandwidths. The kernel is even, so ``tail``, ``Phi(-k r)``, has all of it,
    and without the digits that differences next to one would lose.
    """
    bins = edges.shape[1] - 1
    right = -tail.diff(dim=1)
    kernel = torch.cat([right.flip(1), right], 1)
    # Only the last half of the full convolution is wanted, so its wrap-around does no harm.
    spectrum = torch.fft.rfft(edges, 2 * bins) * torch.fft.rfft(kernel, 2 * bins)
    return torch.fft.irfft(spectrum, 2 * bins)[:, bins:].clamp_min(0)
