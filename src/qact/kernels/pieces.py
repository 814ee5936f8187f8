"""A stored map as 16 cubics per channel: what registers hold, in the place of a table in memory.

Between two edges of the table, which leave out a small share of the context, the map is cut into 16
pieces of one width ``w``. Piece ``k`` is a cubic in ``u``, the place beside its middle,

    t = (z - centre) / w,    k = round(t) in -8 ... 7,    u = t - k in [-1/2, 1/2],

which meets the table at both of its ends, and is nearest to it in between (least squares). A
channel where that errs by more than `ERROR` leaves out a larger share, or keeps its table alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qact.kernels.stored import Stored

PIECES = 16
BEGIN, END = -0.5 * PIECES - 0.5, 0.5 * PIECES - 0.5  # of t
# Largest distance from the table, as a share of the range of outputs: a fifth of what a rank in a
# histogram may err.
ERROR = 1 / 2000
# Where a piece is compared with the table.
_PLACES = torch.linspace(-0.5, 0.5, 17, dtype=torch.float64)
# Two parabolas' worth of freedom that leave both ends alone: (u^2 - 1/4) (a + b u).
_INSIDE = (_PLACES**2 - 0.25)[:, None] * _PLACES[:, None] ** torch.arange(2)
_SOLVE = torch.linalg.pinv(_INSIDE).T
_POWERS = _PLACES[:, None] ** torch.arange(4)


@dataclass
class Pieces:
    """The cubics of every channel, float32.

    ``curves`` (C, 4, 16) are the coefficients of ``u^0 ... u^3``; piece ``k`` is in column ``k mod
    16``. ``places`` (C, 3) are the centre, ``1 / w``, and the ``t`` below which the table answers:
    minus infinity where the floor does, infinity where the table answers all.
    """

    curves: Tensor
    places: Tensor


def pieces(stored: Stored) -> Pieces:
    """Fit them, channel by channel with the smallest share left out that keeps to `ERROR`."""
    channels = stored.table.shape[0]
    curves = torch.zeros(channels, 4, PIECES)
    places = torch.tensor([0.0, 1.0, torch.inf]).repeat(channels, 1)
    left = torch.arange(channels)
    for bulk in () if stored.bulk is None else stored.bulk:
        found, spots, good = _fitted(stored, left, bulk[:, left].double())
        curves[left[good]], places[left[good]] = found[good], spots[good]
        left = left[~good]
        if not len(left):
            break
    return Pieces(curves, places)


def _fitted(stored: Stored, rows: Tensor, bulk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Curves and places of some channels, and which of them are near enough to the table."""
    table, floor = stored.table[rows, :-1].double(), stored.least[rows, None].double()
    value = torch.maximum(table, floor)
    span = value.amax(1) - value.amin(1)
    first = stored.offset[rows].double()
    begin, width, floored = _cut(table, value, span, floor[:, 0], bulk, -first)
    middle = torch.arange(PIECES) + 0.5
    edge = begin[:, None, None] + width[:, None, None] * (middle[:, None] + _PLACES)
    want = _lines(table, edge.flatten(1)).view_as(edge)
    low, high = want[..., :1], want[..., -1:]
    inside = (want - low * (0.5 - _PLACES) - high * (0.5 + _PLACES)) @ _SOLVE
    low, high = low[..., 0], high[..., 0]
    ends = [(low + high) / 2 - inside[..., 0] / 4, high - low - inside[..., 1] / 4]
    curve = torch.stack([*ends, inside[..., 0], inside[..., 1]], -1)
    got = torch.maximum(curve @ _POWERS.T, floor[..., None])
    error = (got - torch.maximum(want, floor[..., None])).abs().amax((1, 2))
    scale, shift = stored.scale[rows].double(), stored.shift[rows].double()
    inverse = stored.inverse[rows].double()
    centre = ((first + begin - BEGIN * width) / inverse - shift) / scale
    rate = scale * inverse / width
    spots = torch.stack([centre, rate], 1).float()
    # A centre is rounded as values are: where that is much of a piece, they are no more than steps.
    moved = ((spots[:, 0] - centre) * rate).abs()
    usable = (moved <= ERROR / 4) & torch.isfinite(spots).all(1)
    usable &= spots[:, 1].abs() > torch.finfo(torch.float32).tiny
    edge_of_table = torch.where(floored, -torch.inf, BEGIN).float()
    curves = curve.roll(PIECES // 2, 1).transpose(1, 2).float()
    return curves, torch.cat([spots, edge_of_table[:, None]], 1), usable & (error <= ERROR * span)


def _cut(
    table: Tensor, value: Tensor, span: Tensor, floor: Tensor, bulk: Tensor, zero: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where pieces begin and how wide they are, in bins, and whether the floor lies before them.

    They begin on the side of the floor: their width is negative where that is above.
    """
    last = table.shape[1] - 1
    moving = value.diff(dim=1).abs() > 1e-6 * span[:, None]
    bin_ = torch.arange(last)
    low = torch.where(moving, bin_, last - 1).amin(1).double()
    high = torch.where(moving, bin_ + 1, 1).amax(1).double()
    low = torch.maximum(low, bulk[0]).clamp_max(last - 1)
    high = torch.maximum(torch.minimum(high, bulk[1]), low + 1)
    falls = _lines(table, high[:, None])[:, 0] <= floor
    begin, end = torch.where(falls, high, low), torch.where(falls, low, high)
    floored = _lines(table, begin[:, None])[:, 0] <= floor
    # Where the slope may jump, at a zero within ("continuous" grounding), two pieces meet.
    share = PIECES * (zero - begin) / (end - begin)
    before = torch.where(floored, share.ceil(), share.round()).clamp(1, PIECES - 1)
    left, right = (zero - begin) / before, (end - zero) / (PIECES - before)
    width = torch.where(left.abs() > right.abs(), left, right)
    within = (share > 0) & (share < PIECES)
    begin = torch.where(within, zero - before * width, begin)
    return begin, torch.where(within, width, (end - begin) / PIECES), floored


def _lines(table: Tensor, edge: Tensor) -> Tensor:
    """The table (C, E) at places between its edges (C, any)."""
    edge = edge.clamp(0, table.shape[1] - 1)
    cell = edge.floor().clamp_max(table.shape[1] - 2).long()
    return torch.lerp(table.gather(1, cell), table.gather(1, cell + 1), edge - cell)
