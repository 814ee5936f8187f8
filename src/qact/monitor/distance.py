"""The distance of a window to its reference, signal by signal.

The mean over channels of the largest gap ``|F_w - F_r|`` of the two distribution functions at edges
of the reference's dyadic grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qact.monitor import sketch
from qact.monitor.sketch import Frame
from qact.rank.grid import Grid
from qact.rank.histogram import Histogram

CHANNELS = 64  # of a signal that the distance reads, evenly spaced
EDGES = 16  # at which it reads them


@dataclass(frozen=True)
class Signal:
    """One signal of the reference.

    Args:
        frame: on which windows are counted.
        histogram: of all of its values, (C, bins).
        channels: those that the distance reads, (c,).
        exponent: of the edges, (c,).
        cells: the edges ``cells * 2**exponent``, (c, K).
        below: for each kept image how many of its values lie below each edge, (N, c, K).
        values: that an image has per channel.
        variance: of the means of the kept images, (C,).
    """

    frame: Frame
    histogram: Histogram
    channels: Tensor
    exponent: Tensor
    cells: Tensor
    below: Tensor
    values: int
    variance: Tensor

    @classmethod
    def of(cls, frame: Frame, histogram: Histogram, z: Tensor) -> Signal:
        """Choose edges at quantiles, and count the kept images ``z`` (N, C, L) below them."""
        channels = _spread(len(histogram.mass), CHANNELS)
        grid = histogram.grid
        rank = histogram.mass[channels].cumsum(1)
        levels = (torch.arange(EDGES // 2, dtype=torch.float64, device=rank.device) + 0.5) / (
            EDGES // 2
        )
        cell = torch.searchsorted(rank, levels * rank[:, -1:])
        # Both ends of the cell: a value that is shared by many lies between two edges.
        cells = torch.cat([cell, cell + 1], 1) + grid.offset[channels, None]
        exponent = grid.exponent[channels]
        edges = (cells * torch.exp2(exponent.double())[:, None]).float()
        below = torch.cat([_below(part, edges) for part in z[:, channels].split(64)])
        variance = z.double().mean(2).var(0)
        return cls(frame, histogram, channels, exponent, cells, below, z.shape[2], variance)

    def distances(self, window: Histogram) -> Tensor:
        """``max_k |F_w - F_r|`` of the read channels, (c,)."""
        part, own = _channels(window, self.channels), _channels(self.histogram, self.channels)
        gaps = [sketch.below(one, self.cells, self.exponent) for one in (part, own)]
        return (gaps[0] - gaps[1]).abs().amax(1)

    def arrays(self) -> dict[str, Tensor]:
        """All of it as plain tensors."""
        grid = self.histogram.grid
        return {
            "frame": torch.stack([self.frame.exponent.long(), self.frame.middle]),
            "grid": torch.stack([grid.exponent.long(), grid.offset]),
            "mass": self.histogram.mass,
            "moment": self.histogram.moment,
            "channels": self.channels,
            "exponent": self.exponent,
            "cells": self.cells,
            "below": self.below,
            "values": torch.tensor(self.values),
            "variance": self.variance,
        }

    @classmethod
    def read(cls, part: Mapping[str, Tensor]) -> Signal:
        """What :meth:`arrays` has said."""
        frame = Frame(part["frame"][0].int(), part["frame"][1])
        grid = Grid(part["grid"][0].int(), part["grid"][1], part["mass"].shape[1])
        blank = torch.zeros(len(part["mass"]), dtype=torch.float32)
        histogram = Histogram(part["mass"], part["moment"], grid, blank, blank)
        return cls(
            frame,
            histogram,
            part["channels"],
            part["exponent"],
            part["cells"],
            part["below"],
            int(part["values"]),
            part["variance"],
        )

    def drawn(self, weights: Tensor) -> Tensor:
        """The mean distance of drawn windows to drawn references, (B,).

        Args:
            weights: of each kept image in each window, less those in its reference, (B, N).
        """
        share = self.below.flatten(1).float() / self.values
        gap = weights @ (share - share.mean(0))
        return gap.abs().unflatten(1, self.cells.shape).amax(2).mean(1)


def _spread(count: int, most: int) -> Tensor:
    """At most so many of the indices, evenly spaced."""
    some = min(count, most)
    return (torch.arange(some, device="cpu") * count) // some


def _below(z: Tensor, edges: Tensor) -> Tensor:
    """How many values of each image (N, C, L) lie below each edge (C, K): (N, C, K)."""
    each = edges.expand(len(z), -1, -1).contiguous()
    return torch.searchsorted(z.contiguous().sort(2).values, each).to(torch.int32)


def _channels(histogram: Histogram, index: Tensor) -> Histogram:
    grid = histogram.grid
    part = Grid(grid.exponent[index], grid.offset[index], grid.bins)
    one = (histogram.mass, histogram.moment)
    mass, moment = (numbers[index] for numbers in one)
    return Histogram(mass, moment, part, histogram.mean[index], histogram.std[index])
