"""What kernels read of a stored context: a row of numbers per channel, and its table."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from qact.kernels.cpu.frame import pack
from qact.kernels.cpu.lanes import LANES, PERMUTES
from qact.kernels.pieces import ERROR, PIECES
from qact.kernels.stored import Stored

# Where pieces begin and end, if the middle one begins at -1/2.
BEGIN, END = -0.5 * PIECES - 0.5, 0.5 * PIECES - 0.5
# Numbers of a channel, behind its four times sixteen coefficients.
NUMBERS = 4 * LANES
CENTRE, RATE, FAR, LEAST, SCALE, SHIFT, INVERSE, LOW, HIGH = range(NUMBERS, NUMBERS + 9)
# Edges between which its table moves, and where its windows before and behind the cubics begin.
RISE, REST, BEFORE, BEHIND = range(NUMBERS + 9, NUMBERS + 13)
# Edges of a table that two registers hold.
WINDOW = 2 * LANES


def prepared(stored: Stored) -> tuple[array[int], tuple[Tensor, Tensor]]:
    """The frame of its tables, and what must outlive it: it holds addresses."""
    records, table = _records(stored), stored.table
    short = max(0, WINDOW - table.shape[1])
    table = torch.cat([table, table[:, -1:].expand(-1, short)], 1) if short else table
    blank = records.new_empty(0, 0, 0)
    return pack([blank, blank, records, table, stored.place], []), (records, table)


def _records(stored: Stored) -> Tensor:
    """All that a channel needs beside its table, side by side, from `CENTRE` on."""
    curves, places = _placed(stored)
    first, bins = stored.offset.float(), stored.table.shape[1] - 2
    numbers = [stored.least, stored.scale, stored.shift, stored.inverse, first, first + bins]
    numbers += _windows(stored)
    blank = curves.new_zeros(len(first), LANES - 3 - len(numbers))
    return torch.cat([curves, places, torch.stack(numbers, 1), blank], 1).contiguous()


def _windows(stored: Stored) -> list[Tensor]:
    """`RISE` to `BEHIND`, (C,) each.

    A tail is short: beyond the cubics lie some tens of edges, then one value for good.
    """
    last = stored.table.shape[1] - 1
    edge, moves = torch.arange(last, device="cpu"), stored.table.diff(dim=1) != 0
    rise = torch.where(moves, edge, last).amin(1) - 1
    rest = torch.where(moves, edge + 1, 0).amax(1)
    pieces = stored.pieces
    if pieces is None:
        return [
            rise.float(),
            rest.float(),
            *[torch.zeros(len(moves), dtype=torch.float32, device="cpu")] * 2,
        ]
    end, left = pieces.begin + PIECES * pieces.width, pieces.width < 0
    before = torch.where(left, pieces.begin, pieces.begin - WINDOW)
    behind = torch.where(left, end - WINDOW, end)
    starts = (t.floor().clamp(0, max(0, last + 1 - WINDOW)) for t in (before, behind))
    return [t.float() for t in (rise, rest, *starts)]


def _placed(stored: Stored) -> tuple[Tensor, Tensor]:
    """The cubics as registers hold them, piece ``k`` in lane ``k mod 16``; where they are (C, 3).

    ``t = (z - centre) rate`` counts pieces from -8.5 to 7.5. Below ``far`` the table answers: minus
    infinity where the floor does, infinity where the table answers all.
    """
    channels, pieces = len(stored.least), stored.pieces
    if pieces is None or not PERMUTES:
        none = torch.tensor([0.0, 1.0, torch.inf], dtype=torch.float32, device="cpu")
        return none.new_zeros(channels, NUMBERS), none.repeat(channels, 1)
    scale, shift = stored.scale.double(), stored.shift.double()
    middle = stored.offset + pieces.begin - BEGIN * pieces.width
    centre = (middle / stored.inverse.double() - shift) / scale
    rate = scale * stored.inverse / pieces.width
    places = torch.stack([centre, rate], 1).float()
    # A centre is rounded as values are: where that is much of a piece, they are no more than steps.
    moved = ((places[:, 0] - centre) * rate).abs()
    good = pieces.good & (moved <= ERROR / 4) & torch.isfinite(places).all(1)
    good &= places[:, 1].abs() > torch.finfo(torch.float32).tiny
    far = torch.where(good, torch.where(pieces.floored, -torch.inf, BEGIN), torch.inf)
    curves = pieces.curves.roll(PIECES // 2, 2).flatten(1)
    return curves.float(), torch.cat([places, far[:, None].float()], 1)
