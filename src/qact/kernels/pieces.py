"""A stored map as 16 cubics per channel: what registers hold, in the place of a table in memory.

Between two edges of the table, which leave out a small share of the context, the map is cut into 16
pieces of one width ``w``, a whole number of bins. A piece is a cubic in ``u``, the place beside its
middle in widths, from -1/2 to 1/2, which meets the table at both of its ends, and is nearest to it
in between (least squares). A channel where that errs by more than `ERROR` leaves out a larger
share, or keeps its table alone.

The cubics then are the map: the table takes their values (:meth:`Pieces.into`). What reads lines
between its edges is off by the curvature within a bin, at most ``max |f''| / 8`` for a bin of width
one, and a channel where that is above `LINES` keeps its table too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qact import _compat
from qact._compat import replace

PIECES = 16
# Largest distance from the table, as a share of the range of outputs: a fifth of what a rank in a
# histogram may err.
ERROR = 1 / 2000
# Largest distance of lines between the edges from the cubics, likewise.
LINES = 1 / 10000
# Of a context, what may be left to the table on either side.
SHARES = (1e-4, 1e-3, 1e-2)
# Where a piece is compared with the table.
_PLACES = torch.linspace(-0.5, 0.5, 17, dtype=torch.float64, device="cpu")
# Two parabolas' worth of freedom that leave both ends alone: (u^2 - 1/4) (a + b u).
_INSIDE = (_PLACES**2 - 0.25)[:, None] * _PLACES[:, None] ** torch.arange(2, device="cpu")
_SOLVE = torch.linalg.pinv(_INSIDE).T
_POWERS = _PLACES[:, None] ** torch.arange(4, device="cpu")


@dataclass(frozen=True)
class Pieces:
    """The cubics of every channel, float64.

    ``curves`` (C, 4, 16) are the coefficients of ``u^0 ... u^3``. The pieces begin at ``begin``
    (C,), in bins from the table's first edge, and are ``width`` (C,) bins wide, less than none
    where they run down. Before them lies the floor where ``floored`` (C,), else the table, as it
    does behind them, and everywhere in a channel that is not ``good`` (C,).
    """

    curves: Tensor
    begin: Tensor
    width: Tensor
    floored: Tensor
    good: Tensor

    def into(self, table: Tensor) -> Tensor:
        """The table (C, E) with their values at the edges between their ends."""
        edge = torch.arange(table.shape[1], device=table.device)
        place = (edge - self.begin[:, None]) / self.width[:, None]
        piece = place.floor().clamp(0, PIECES - 1)
        u = place - piece - 0.5
        k0, k1, k2, k3 = (curve.gather(1, piece.long()) for curve in self.curves.unbind(1))
        within = self.good[:, None] & (place > 0) & (place < PIECES)
        return torch.where(within, ((k3 * u + k2) * u + k1) * u + k0, table)

    def behind(self, scale: Tensor, shift: Tensor, keeps: Tensor) -> Pieces:
        """The same and an affine map behind them, in the channels that it ``keeps`` near."""
        curves = self.curves * scale[:, None, None]
        curves = torch.cat([curves[:, :1] + shift[:, None, None], curves[:, 1:]], 1)
        return replace(self, curves=curves, good=self.good & keeps)


def fitted(table: Tensor, floor: Tensor, mass: Tensor, zero: Tensor) -> Pieces:
    """Fit a table (C, E), not below ``floor`` (C,), whose zero is at an edge ``zero`` (C,).

    Channel by channel with the smallest of `SHARES` of the ``mass`` (C, E - 1) left out that keeps
    to `ERROR`.
    """
    table, floor, zero = table.double(), floor.double()[:, None], zero.double()
    value, last = torch.maximum(table, floor), table.shape[1] - 1
    span = value.amax(1) - value.amin(1)
    moving = value.diff(dim=1).abs() > 1e-6 * span[:, None]
    bin_ = torch.arange(last, device=table.device)
    first = torch.where(moving, bin_, last - 1).amin(1).double()
    end = torch.where(moving, bin_ + 1, 1).amax(1).double()
    below = mass.cumsum(1, dtype=torch.float64)
    found: tuple[Tensor, ...] = ()
    for share in SHARES:
        out = share * below[:, -1:]
        low = torch.maximum(first, (below <= out).sum(1)).clamp_max(last - 1)
        high = torch.minimum(end, (below < below[:, -1:] - out).sum(1) + 1)
        now = _fitted(table, floor, span, low, torch.maximum(high, low + 1), zero)
        found = tuple(_first(found[-1], a, b) for a, b in zip(found, now)) or now  # noqa: B905
        known = not torch.compiler.is_compiling() and not _compat.transforming()
        if known and bool(found[-1].all()):
            break
    return Pieces(*found)


def _first(good: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """The channels of ``these`` that are good, the others of ``those``."""
    return torch.where(good.view(-1, *[1] * (these.dim() - 1)), these, those)


def _fitted(
    table: Tensor, floor: Tensor, span: Tensor, low: Tensor, high: Tensor, zero: Tensor
) -> tuple[Tensor, ...]:
    """What makes `Pieces`, between two edges (C,) and (C,)."""
    places, solve, powers = (t.to(table.device) for t in (_PLACES, _SOLVE, _POWERS))
    begin, width, floored = _cut(table, floor[:, 0], low, high, zero)
    middle = torch.arange(PIECES, device=table.device, dtype=torch.float64) + 0.5
    edge = begin[:, None, None] + width[:, None, None] * (middle[:, None] + places)
    want = _lines(table, edge.flatten(1)).view_as(edge)
    left, right = want[..., :1], want[..., -1:]
    inside = (want - left * (0.5 - places) - right * (0.5 + places)) @ solve
    inside = _upright(inside, want)
    left, right = left[..., 0], right[..., 0]
    ends = [(left + right) / 2 - inside[..., 0] / 4, right - left - inside[..., 1] / 4]
    curves = torch.stack([*ends, inside[..., 0], inside[..., 1]], 1)
    bend = (2 * curves[:, 2].abs() + 3 * curves[:, 3].abs()).amax(1) / width**2
    got = torch.maximum(curves.transpose(1, 2) @ powers.T, floor[..., None])
    error = (got - torch.maximum(want, floor[..., None])).abs().amax((1, 2))
    good = (error <= ERROR * span) & (bend / 8 <= LINES * span)
    return curves, begin, width, floored, good


def _upright(inside: Tensor, want: Tensor) -> Tensor:
    """``a, b`` of each cubic (C, 16, 2), made smaller until it only grows where the table does.

    A rank keeps the order of values, and bounds of intervals rest on that. Beside its line a cubic
    is ``(u^2 - 1/4) (a + b u)``, whose slope is extreme at its ends, and maybe at ``-a / (3 b)``.
    """
    a, b = inside.unbind(-1)
    rise = want[..., -1] - want[..., 0]
    sign = torch.where(rise < 0, -1.0, 1.0).to(rise)
    vertex = torch.where(a.abs() < 1.5 * b.abs(), -a.square() / (3 * b) - b / 4, b / 2)
    least = torch.stack([sign * (b / 2 + a), sign * (b / 2 - a), sign * vertex]).amin(0)
    share = torch.where(least < 0, rise.abs() / -least, 1.0).clamp_max(1.0)
    turns = (want.diff(dim=-1) * sign[..., None] < 0).any(-1)
    return inside * torch.where(turns, 1.0, share)[..., None]


def _cut(
    table: Tensor, floor: Tensor, low: Tensor, high: Tensor, zero: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where pieces begin and how wide they are, in bins, and whether the floor lies before them.

    They begin on the side of the floor: their width is negative where that is above.
    """
    falls = _lines(table, high[:, None])[:, 0] <= floor
    begin, end = torch.where(falls, high, low), torch.where(falls, low, high)
    floored = _lines(table, begin[:, None])[:, 0] <= floor
    # Where the slope may jump, at a zero within ("continuous" grounding), two pieces meet.
    share = PIECES * (zero - begin) / (end - begin)
    before = torch.where(floored, share.ceil(), share.round()).clamp(1, PIECES - 1)
    left, right = (zero - begin) / before, (end - zero) / (PIECES - before)
    width = torch.where(left.abs() > right.abs(), left, right)
    within = (share > 0) & (share < PIECES)
    width = torch.where(within, width, (end - begin) / PIECES)
    width = width.sign() * width.abs().ceil()
    begin = torch.where(within, zero - before * width, begin)
    return begin, width, floored


def _lines(table: Tensor, edge: Tensor) -> Tensor:
    """The table (C, E) at places between its edges (C, any)."""
    edge = edge.clamp(0, table.shape[1] - 1)
    cell = edge.floor().clamp_max(table.shape[1] - 2).long()
    return torch.lerp(table.gather(1, cell), table.gather(1, cell + 1), edge - cell)
