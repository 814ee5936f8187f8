"""A stored context made ready for inference: a table per channel, and the norms folded into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qact._compat import replace
from qact.kernels.passes import PARTS, flat
from qact.kernels.pieces import ERROR, LINES, Pieces, fitted
from qact.kernels.steps import led, step_places, stored_table
from qact.kernels.tables import rank_table
from qact.rank.grid import power_of_two
from qact.rank.histogram import Histogram, padded
from qact.rank.levels import Level, parse
from qact.rank.rule import Rule


@dataclass(frozen=True)
class Stored:
    """``out = table(scale z + shift)`` per channel, float32.

    ``table`` (C, bins + 2) are the values at the edges of the grid, the last one twice; between
    them lies a straight line, not below ``least`` (C,). With ``place`` (C, bins + 1) the value
    jumps instead, where a bin's place in 256ths is reached. ``inverse`` (C,) is one over the bin
    width, ``offset`` (C,) the first edge in bins. ``after`` maps what was looked up, (N, C, L),
    where the table holds ranks: a level that cannot be interpolated. ``pieces`` are the cubics
    whose values the table has at its edges, which an engine may read in the place of lines.
    """

    table: Tensor
    place: Tensor
    inverse: Tensor
    offset: Tensor
    scale: Tensor
    shift: Tensor
    least: Tensor
    after: Callable[[Tensor], Tensor] | None = None
    pieces: Pieces | None = None

    @cached_property
    def made(self) -> dict[str, Any]:
        """What an engine makes of it once, by the engine's word."""
        return {}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All the numbers, in their order."""
        rest = (self.inverse, self.offset, self.scale, self.shift, self.least)
        return self.table, self.place, *rest

    @property
    def range(self) -> Tensor:
        """Of the outputs of a channel, (C,)."""
        low, high = torch.maximum(self.table, self.least[:, None]).aminmax(dim=1)
        return high - low

    @property
    def slack(self) -> Tensor:
        """How far, at most, lines between the edges are from what is read as cubics, (C,)."""
        return self.range * (0.0 if self.pieces is None else LINES * self.pieces.good)

    @property
    def moved(self) -> Tensor:
        """How far, at most, what is read lies from the map of the context itself, (C,)."""
        return self.slack * (1 + ERROR / LINES)

    def before(self, scale: Tensor, shift: Tensor) -> Stored:
        """The same behind the affine map ``scale z + shift``, both (C,)."""
        return replace(self, scale=scale.float(), shift=shift.float())

    def behind(self, scale: Tensor, shift: Tensor) -> Stored:
        """The same, and the affine map of its output behind it.

        Where that leaves a floor other than a constant one (a ReLU under a negative scale), the
        table takes the floor in at its edges.
        """
        table = torch.maximum(self.table, self.least[:, None]).double()
        upright = scale[:, None] >= 0
        table = torch.where(upright, self.table.double(), table) * scale[:, None] + shift[:, None]
        floor = torch.where(upright[:, 0], self.least * scale + shift, -torch.inf)
        floor = torch.where(torch.isnan(floor), shift, floor)  # scale zero: constant
        pieces = self.pieces
        if pieces is not None:
            pieces = pieces.behind(scale, shift, upright[:, 0] | self.least.isneginf())
        return replace(self, table=table.float(), least=floor.float(), pieces=pieces)


def storable(rule: Rule, level: Level) -> bool:
    """Whether the activation in a stored context is a table: a step rank, or a level in between."""
    return not rule.smooth or level.interpolable


def store(context: Histogram, level: Level, rule: Rule, exact: bool = False) -> Stored:
    """The table of a context; a ReLU is left to the values, so that its kink stays sharp.

    It holds ranks where the level cannot be interpolated. Else smooth ranks are cubics wherever
    these are near (`qact.kernels.pieces`), unless it is to be ``exact``.
    """
    least, pieces = -torch.inf, None
    count = context.count[:, None]
    exact = exact or not rule.smooth
    if not storable(rule, level):
        level, exact = parse("uniform"), True
    if rule.smooth:
        context = padded(context, 4 * rule.bandwidth.width(context.std, context.count))
        knots = rank_table(context, rule)
        if level.activation is F.relu:
            level, least = level.linear(), 0.0
        place = context.mass.new_empty(context.mass.shape[0], 0)
    else:
        context = led(context)
        knots = stored_table(context, rule)
        place = torch.nn.functional.pad(step_places(context), (0, 1), value=0.0).float()
    table = level(knots, count)
    ones = torch.ones_like(context.std, dtype=torch.float32)
    if not exact:
        pieces = fitted(table, least * ones, context.mass, -context.grid.offset)
        table = pieces.into(table)
    table = table.float()
    return Stored(
        torch.cat([table, table[:, -1:]], 1).contiguous(),
        place.contiguous(),
        power_of_two(-context.grid.exponent, torch.float32),
        context.grid.offset.contiguous(),
        ones,
        torch.zeros_like(ones),
        least * ones,
        pieces=pieces,
    )


def lookup(z: Tensor, stored: Stored) -> Tensor:
    """:func:`qact.kernels.cpu.lookup.lookup` in plain PyTorch, on any device.

    Floor, clamp, gather and arithmetic alone: what every runtime has.
    """
    bins = stored.table.shape[1] - 2
    z = (z if z.dtype == torch.float64 else z.float()).contiguous()
    # The inverse width is a power of two, so it commutes with rounding.
    scale, shift = stored.scale * stored.inverse, stored.shift * stored.inverse
    y = z * scale[:, None] + shift[:, None]
    first = stored.offset.to(y.dtype)[:, None]
    cell = (y.floor() - first).clamp(0, bins - 1)
    part = (y - (cell + first)).clamp(0, 1)
    index = torch.where(torch.isnan(cell), 0, cell).long()
    if stored.place.shape[1] == 0:
        edge = flat(index, bins + 2)
        low, high = _at(stored.table, edge), _at(stored.table, edge + 1)
        return torch.maximum(low + part * (high - low), stored.least[:, None])
    place = _at(stored.place, flat(index, bins + 1))
    reached = ((part * PARTS).round() >= place) | (part >= 1)
    return _at(stored.table, flat(index + reached, bins + 2)) + 0 * part


def _at(table: Tensor, index: Tensor) -> Tensor:
    # Faster than an index of three dimensions, and ONNX has it as Gather.
    return table.flatten().index_select(0, index.flatten()).reshape(index.shape)
