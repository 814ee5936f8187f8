"""A stored context as one gather per value: the nearest entry of a finer table, for other runtimes.

What :func:`qact.kernels.stored.lookup` interpolates is fifteen small operators in a runtime that
does not fuse them. The nearest entry is six, of which the first two fold into a convolution before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import checks
from qact._compat import replace
from qact.kernels.stored import Stored, lookup

SIZES = tuple(2**k for k in range(7, 14))  # entries per channel: 0.5 to 32 KiB
STEP_CELLS = 8  # entries per bin where the map jumps, so that no size brings the error down
_ERROR: ContextVar[float | None] = ContextVar("error of exported tables", default=None)


@contextmanager
def fast_export(error: float = 1 / 400) -> Iterator[None]:
    """Export, within the block, the nearest entry of a finer table in the place of a line.

    That is ``table[floor(a z + b)]`` in the place of a straight line between two entries: about a
    third of the operators. The table has the fewest entries, a power of two up to 8,192 per
    channel, with which no output is further than ``error`` from the layer's, as a share of the
    channel's range of outputs; a layer that would need more is exported as without the block, with
    a warning. A step rank jumps within a sixteenth of a bin of where it should. NaN stays NaN.

    Args:
        error: largest distance allowed, in (0, 1].

    Raises:
        ValueError: ``error`` is not in (0, 1].

    Example:
        >>> import qact
        >>> layer = qact.QAct(3)
        >>> x = torch.randn(64, 3)
        >>> _ = layer(x)
        >>> with fast_export():
        ...     program = torch.export.export(layer.eval(), (x,))
        >>> (program.module()(x) - layer(x)).abs().max() < 4 / 400
        tensor(True)
    """
    token = _ERROR.set(checks.number("error", error, "a share of the range, in (0, 1]", 0, 1))
    try:
        yield
    finally:
        _ERROR.reset(token)


@dataclass(frozen=True)
class Nearest:
    """``out = table[row + int(clip(scale z + shift, 1, size - 1))]`` per channel, float32.

    ``table`` (C * size, 1) holds a row per channel; a row has NaN first, which is where a NaN is
    sent. ``scale`` and ``shift`` are (C,).
    """

    table: Tensor
    scale: Tensor
    shift: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All the numbers, in their order."""
        return self.table, self.scale, self.shift

    def __call__(self, input: Tensor, dim: int) -> Tensor:
        """Look up every value of ``input``, whose channels are at ``dim``.

        Nothing is reshaped before the affine map: a runtime folds it into a convolution only where
        it stands right behind.
        """
        channels = len(self.scale)
        size = len(self.table) // channels
        shape = [1] * input.dim()
        shape[dim] = channels
        cell = (input.float() * self.scale.view(shape) + self.shift.view(shape)).clamp(1, size - 1)
        # An integer of a NaN is 0 or the least integer, by processor: both end at entry 0.
        index = cell.int().clamp(0, size - 1)
        row = torch.arange(channels, dtype=torch.int32, device=index.device).view(shape) * size
        return F.embedding(index + row, self.table).squeeze(-1).to(input.dtype)


def exported(stored: Stored) -> tuple[Tensor, ...]:
    """The tensors that a graph holds of a stored context; see :func:`of_tensors`."""
    error = _ERROR.get()
    if error is None:
        return stored.tensors
    found = nearest(stored, error)
    if found is None:
        warnings.warn(
            f"no table of {SIZES[-1]} entries stays within {error:g} of this layer's outputs; it "
            "is exported with straight lines between entries",
            stacklevel=2,
        )
        return stored.tensors
    return found.tensors


def of_tensors(
    tensors: tuple[Any, ...], after: Callable[[Tensor], Tensor] | None = None
) -> Stored | Nearest:
    """What :func:`exported` has taken apart."""
    return Nearest(*tensors) if len(tensors) == 3 else replace(Stored(*tensors), after=after)


def nearest(stored: Stored, error: float) -> Nearest | None:
    """The smallest table that stays within ``error`` of the range of outputs, or None."""
    values = torch.maximum(stored.table, stored.least[:, None])[:, :-1]
    allowed = (error * stored.range - stored.slack)[:, None]
    begin, end = _moving(values, allowed / 2)
    steps = stored.place.shape[1] > 0
    for size in SIZES:
        table, cells = _filled(stored, begin, end, size)
        good = cells >= STEP_CELLS if steps else _distance(stored, table, begin, cells) <= allowed
        if good.all():
            break
    else:
        if not steps:
            return None
    # From input to bins of the grid, from those to cells of which the first inner one is number 2.
    scale = stored.scale * stored.inverse * cells
    shift = (stored.shift.double() * stored.inverse - stored.offset - begin) * cells + 2
    return Nearest(table.view(-1, 1), scale.float(), shift.float())


def _moving(values: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
    """Between which edges (C,), (C,) the values have left the one end and not reached the other."""
    edges = torch.arange(values.shape[1], device=values.device)
    left = (values - values[:, :1]).abs() > still
    right = (values - values[:, -1:]).abs() > still
    begin = torch.where(left, edges, edges[-1]).amin(1) - 1
    end = torch.where(right, edges, 0).amax(1) + 1
    begin = torch.minimum(begin.clamp_min(0), end - 1)
    return begin.double(), end.double()


def _filled(stored: Stored, begin: Tensor, end: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The table (C, size) and its cells per bin (C,): NaN, an outer cell, inner ones, another."""
    cells = (size - 3) / (end - begin)
    middle = torch.arange(size - 3, device=begin.device, dtype=torch.float64) + 0.5
    middle = middle / cells[:, None]
    ends = begin.new_tensor([-torch.inf, torch.inf]).expand(len(begin), 2)
    below, above = _at(stored, ends).split(1, 1)
    inner = _at(stored, begin[:, None] + middle)
    return torch.cat([torch.full_like(below, torch.nan), below, inner, above], 1), cells


def _distance(stored: Stored, table: Tensor, begin: Tensor, cells: Tensor) -> Tensor:
    """How far the table is from the straight lines, at five places of every inner cell."""
    size = table.shape[1] - 3
    ends = torch.linspace(0, 1, 5, device=begin.device, dtype=torch.float64)
    place = (torch.arange(size, device=begin.device)[:, None] + ends).flatten()
    right = _at(stored, begin[:, None] + place / cells[:, None])
    wrong = (right.view(len(begin), size, -1) - table[:, 2:-1, None]).abs().amax((1, 2))
    return wrong[:, None]


def _at(stored: Stored, bins: Tensor) -> Tensor:
    """The outputs at places (C, n) given in bins of the grid."""
    one, zero = torch.ones_like(stored.scale), torch.zeros_like(stored.shift)
    in_bins = replace(stored, scale=one, shift=zero, inverse=one, offset=zero)
    return lookup(bins.float()[None], in_bins)[0]
