"""A context of what passes a place, counted as it passes: two passes over its values."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.context import Context
from qact.kernels import engines
from qact.kernels.columns import REACH
from qact.rank.grid import Grid, spanning
from qact.rank.histogram import Histogram, merge_on

BINS = 128
ROOM = 0.25  # of the span of what was seen, left on both sides for batches to come


class Observer:
    """Counts values (N, C, L) batch by batch, on the grid of the first as long as that is enough.

    A batch that reaches beyond widens the grid. :meth:`qact.Context.add` keeps extremes apart, so
    that its grid does not depend on the order of batches; here it does, at a fraction of the cost.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.batches = 0
        self._seen: Histogram | None = None
        self._low: Tensor
        self._high: Tensor

    @torch.no_grad()
    def add(self, z: Tensor) -> None:
        """Count a batch.

        Raises:
            ValueError: it holds something not finite, or has other channels than those before.
        """
        if not z.numel():  # no sample, as a last batch of a stream may have
            return
        z = z.detach() if z.dtype == torch.float64 else z.detach().float()
        if self._seen is not None and z.shape[1] != len(self._seen.mean):
            raise ValueError(f"it has {z.shape[1]} channels and had {len(self._seen.mean)} before")
        passes = engines.passes(None, z)
        low, high, mean, std = passes.statistics(z)
        if not bool(torch.isfinite(mean).all()):
            raise ValueError(f"it holds {z[~torch.isfinite(z)][0].item()}, which has no rank")
        grid = self._grid(*_bulk(low, high, mean, std))
        mass, moment = passes.count(z, grid)
        new = Histogram(mass.double(), moment.double(), grid, mean, std)
        self._seen = new if self._seen is None else merge_on(grid, self._seen, new)
        self.batches += 1

    def _grid(self, low: Tensor, high: Tensor) -> Grid:
        """The grid so far, or one that holds all that was seen and ``[low, high]``."""
        seen = self._seen
        if seen is not None:
            width = seen.grid.width(torch.float64)
            first, last = (seen.grid.offset + end for end in (0, self.bins))
            if not bool(((low < first * width) | (high > last * width)).any()):
                return seen.grid
            low, high = torch.minimum(low, self._low), torch.maximum(high, self._high)
        self._low, self._high = low, high
        room = ROOM * (high - low)
        return spanning(low - room, high + room, self.bins, torch.float32)

    def context(self) -> Context:
        """What was counted.

        Raises:
            RuntimeError: nothing was.
        """
        if self._seen is None:
            raise RuntimeError("nothing has been counted")
        made = Context(len(self._seen.mean), self.bins, device=self._seen.mean.device)
        return made.join(self._seen, self.batches)


def _bulk(low: Tensor, high: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """The extent (C,) of values, without what stands further out than any bulk does."""
    low, high, mean, std = (t.double() for t in (low, high, mean, std))
    return torch.maximum(low, mean - REACH * std), torch.minimum(high, mean + REACH * std)


def atoms(context: Histogram) -> tuple[Tensor, Tensor]:
    """What a context has counted as values and their masses, (C, bins) each, float64.

    The values of a bin stand at their mean.
    """
    mass, width = context.mass.double(), context.grid.width(torch.float64)[:, None]
    index = torch.arange(context.grid.bins, device=mass.device) + context.grid.offset[:, None]
    inside = context.moment.double() / mass.clamp_min(torch.finfo(torch.float64).tiny)
    return (index + inside) * width, mass
