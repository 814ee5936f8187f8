"""`Reference`: what a model sees when all is well, and how far a sound window strays from it.

The distance of a window to its reference is, per signal, the mean over channels of the largest gap
``|F_w - F_r|`` of the two distribution functions at edges of the reference's dyadic grid. How large
it is by chance depends on the number of images, on how much of the variance lies between images
(the values of one are alike), on the edges, and on the reference's own size. All of it is in the
distribution functions of single images, ``F_i``: a window of sound images has the mean of ``n`` of
them. So the null distribution is read off by drawing: windows of ``n`` images and references of
``N`` images, both with replacement from those of the reference (Efron and Tibshirani 1993, section
16.2), all signals in the same draws.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qact import atomic, checks
from qact.monitor import sketch
from qact.monitor.collect import Collector, Rows
from qact.monitor.sketch import Frame
from qact.monitor.window import Open, Window
from qact.rank.grid import Grid
from qact.rank.histogram import Histogram
from qact.surgery import Where, batches, call, evaluating

IMAGES = 1024  # images of the reference whose own distribution functions are kept
CHANNELS = 64  # of a signal that the distance reads, evenly spaced
EDGES = 16  # at which it reads them
DRAWS = 4000
FORMAT = "qact.monitor.reference/1"


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
    """

    frame: Frame
    histogram: Histogram
    channels: Tensor
    exponent: Tensor
    cells: Tensor
    below: Tensor
    values: int

    @classmethod
    def of(cls, frame: Frame, histogram: Histogram, z: Tensor) -> Signal:
        """Choose edges at quantiles, and count the kept images ``z`` (N, C, L) below them."""
        channels = _spread(len(histogram.mass), CHANNELS)
        grid = histogram.grid
        rank = histogram.mass[channels].cumsum(1)
        levels = (torch.arange(EDGES // 2, dtype=torch.float64) + 0.5) / (EDGES // 2)
        cell = torch.searchsorted(rank, levels * rank[:, -1:])
        # Both ends of the cell: a value that is shared by many lies between two edges.
        cells = torch.cat([cell, cell + 1], 1) + grid.offset[channels, None]
        exponent = grid.exponent[channels]
        edges = (cells * torch.exp2(exponent.double())[:, None]).float()
        below = torch.stack([_below(image, edges) for image in z[:, channels]])
        return cls(frame, histogram, channels, exponent, cells, below, z.shape[2])

    def distances(self, window: Histogram) -> Tensor:
        """``max_k |F_w - F_r|`` of the read channels, (c,)."""
        part, own = _channels(window, self.channels), _channels(self.histogram, self.channels)
        gaps = [sketch.below(one, self.cells, self.exponent) for one in (part, own)]
        return (gaps[0] - gaps[1]).abs().amax(1)

    def drawn(self, window: Tensor, again: Tensor, shrink: float) -> Tensor:
        """The mean distance of drawn windows to drawn references, (B,).

        Args:
            window: how often each kept image is in each window, divided by its size, (B, N).
            again: the same for references of N images.
            shrink: spread of a reference of all images, in terms of one of N.
        """
        share = self.below.flatten(1).float() / self.values
        share = share - share.mean(0)
        gap = window @ share - shrink * (again @ share)
        return gap.abs().unflatten(1, self.cells.shape).amax(2).mean(1)


@dataclass(frozen=True)
class Null:
    """Distances of sound windows: ``distances`` (S, B) and their ``furthest`` (B,), both sorted."""

    distances: Tensor
    furthest: Tensor


@dataclass(frozen=True)
class Verdict:
    """What a window's distances mean.

    Args:
        images: of the window.
        distances: by signal, the mean over channels of the largest gap of distribution functions.
        p_values: by signal, how often a sound window of as many images is as far.
        p: how often the furthest signal of a sound window is as far: corrected for the number of
            signals by their joint distribution (Westfall and Young 1993: the largest statistic).
        broken: share of the sampled images that were not finite.
    """

    images: int
    distances: Mapping[str, float]
    p_values: Mapping[str, float]
    p: float
    broken: float

    @property
    def worst(self) -> str:
        """The signal with the least p-value, of equal ones that with the largest distance."""
        return min(self.p_values, key=lambda s: (self.p_values[s], -self.distances[s]))


@dataclass
class Reference:
    """What a model sees when all is well: make it by :func:`record`, on images it never learnt.

    Args:
        signals: by name, in order.
        images: of the reference in all.
        positions: of an image that were sampled, per channel.
        confidence: of the labelled images, (M,); empty without labels.
        hits: whether these were classified correctly, (M,).
        draws: of sound windows, which calibrate: rates down to ``1 / (1 + draws)``.
        seed: of the draws.
    """

    signals: dict[str, Signal]
    images: int
    positions: int | None
    confidence: Tensor = field(default_factory=lambda: torch.zeros(0))
    hits: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    draws: int = DRAWS
    seed: int = 0
    _nulls: dict[int, Null] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        kept: list[Rows],
        rest: Window | None = None,
        *,
        positions: int | None = None,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> Reference:
        """The reference of sampled rows (n, C, L) by signal, and of a window of further images."""
        checks.integer("draws", draws, 19)
        count = sum(len(next(iter(rows.values()))) for rows in kept)
        if count < 16:
            raise ValueError(f"a reference of {count} images: 16 are needed, 1,000 are good")
        first = Open(_frames(kept), 0.0)
        for rows in kept:
            first.add(rows)
        window = first.closed(0.0, "", "")
        broken = first.broken + (0 if rest is None else rest.broken)
        if broken:
            raise ValueError(f"{broken} reference images are not finite")
        window = window if rest is None else window + rest
        signals = {}
        for name, frame in first.frames.items():
            sizes = {rows[name].shape[2] for rows in kept}
            if len(sizes) > 1:
                raise ValueError(f"images of {name!r} have {sorted(sizes)} values, not one number")
            z = torch.cat([rows[name] for rows in kept])
            signals[name] = Signal.of(frame, window.histograms[name], z)
        return cls(signals, window.images, positions, draws=draws, seed=seed)

    @property
    def frames(self) -> dict[str, Frame]:
        """On which windows are counted."""
        return {name: signal.frame for name, signal in self.signals.items()}

    @property
    def channels(self) -> dict[str, int]:
        """Channels by signal."""
        return {name: signal.frame.channels for name, signal in self.signals.items()}

    @property
    def window(self) -> Window:
        """The reference as one window."""
        return Window({n: s.histogram for n, s in self.signals.items()}, self.images, self.images)

    def null(self, images: int) -> Null:
        """Distances of sound windows of so many images, drawn once and kept.

        Sizes of more than five binary digits are rounded down: the distances become at most 1.6%
        larger, which errs on the safe side.
        """
        size = _rounded(checks.integer("images", images, 1))
        if size not in self._nulls:
            self._nulls[size] = self._draw(size)
        return self._nulls[size]

    def _draw(self, size: int) -> Null:
        generator = torch.Generator().manual_seed(self.seed)
        kept = len(next(iter(self.signals.values())).below)
        shrink = (kept / self.images) ** 0.5
        parts = []
        for start in range(0, self.draws, 500):
            draws = min(500, self.draws - start)
            window = _counts(draws, size, kept, generator) / size
            again = _counts(draws, kept, kept, generator) / kept
            each = [signal.drawn(window, again, shrink) for signal in self.signals.values()]
            parts.append(torch.stack(each))
        drawn = torch.cat(parts, 1)
        ordered = drawn.sort(1).values
        return Null(ordered, _furthest(ordered, drawn).sort().values)

    def distances(self, window: Window) -> dict[str, Tensor]:
        """By signal the largest gap of each channel that is read, (c,).

        Raises:
            ValueError: the window is of another model, or has no finite image.
        """
        if window.signals != self.channels:
            raise ValueError(
                f"the window has the signals {window.signals}, the reference has {self.channels}: "
                "they are of different models"
            )
        if not window.images:
            raise ValueError(f"the window has no finite image; {window.broken} were not finite")
        return {name: s.distances(window.histograms[name]) for name, s in self.signals.items()}

    def test(self, window: Window) -> Verdict:
        """Compare a window with the reference.

        Raises:
            ValueError: the window is of another model, or has no finite image.
        """
        found = [gaps.mean() for gaps in self.distances(window).values()]
        null = self.null(window.images)
        distances = torch.stack(found).float()
        each = _tail(null.distances, distances[:, None])[:, 0]
        nearer = int(
            torch.searchsorted(null.furthest, _furthest(null.distances, distances[:, None]))
        )
        return Verdict(
            window.images,
            dict(zip(self.signals, distances.tolist(), strict=True)),
            dict(zip(self.signals, each.tolist(), strict=True)),
            (1 + self.draws - nearer) / (1 + self.draws),
            window.broken / (window.images + window.broken),
        )

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` of plain arrays, atomically."""
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "names": np.array(list(self.signals)),
            "numbers": np.array([self.images, self.positions or 0, self.draws, self.seed]),
            "confidence": self.confidence.numpy(),
            "hits": self.hits.numpy(),
        }
        for index, signal in enumerate(self.signals.values()):
            parts = {
                "frame": torch.stack([signal.frame.exponent.long(), signal.frame.middle]),
                "grid": torch.stack(
                    [signal.histogram.grid.exponent.long(), signal.histogram.grid.offset]
                ),
                "mass": signal.histogram.mass,
                "moment": signal.histogram.moment,
                "channels": signal.channels,
                "exponent": signal.exponent,
                "cells": signal.cells,
                "below": signal.below,
                "values": torch.tensor(signal.values),
            }
            arrays |= {f"{index}.{name}": part.numpy() for name, part in parts.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        atomic.write(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Read what :meth:`save` has written.

        Raises:
            ValueError: the file is no reference.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise ValueError(f"{path} is no reference: {checks.reason(error)}") from error
        except Exception as error:  # a damaged zip file
            raise ValueError(f"{path} is no reference: {error}") from error
        if "format" not in arrays or str(arrays["format"]) != FORMAT:
            raise ValueError(f"{path} is no reference of the format {FORMAT}")
        tensors = {
            name: torch.from_numpy(array)
            for name, array in arrays.items()
            if array.dtype.kind in "fiub"
        }
        signals = {}
        for index, name in enumerate(arrays["names"].tolist()):
            part = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{index}.")}
            signals[name] = _read(part)
        images, positions, draws, seed = (int(n) for n in arrays["numbers"])
        return cls(
            signals, images, positions or None, tensors["confidence"], tensors["hits"], draws, seed
        )


def record(
    model: nn.Module,
    loader: Tensor | Iterable[Any],
    *,
    where: Where = None,
    positions: int | None = 16,
    images: int = IMAGES,
    draws: int = DRAWS,
    seed: int = 0,
) -> Reference:
    """Record what ``model`` sees when all is well.

    Args:
        model: any network; passed through in ``eval()`` without gradients.
        loader: batches of held-out images: on those it was trained on a network is surer of itself,
            and every window would seem to drift. Of pairs ``(input, labels)`` the labels serve to
            estimate the accuracy of later windows.
        where: which layers, as in :class:`qact.monitor.Monitor`.
        positions: of an image and channel that are sampled.
        images: whose own distribution functions are kept to calibrate alarms; what comes later
            counts in the contexts alone.
        draws: of sound windows, which calibrate alarms: rates down to ``1 / (1 + draws)``.
        seed: of the sampling and of the calibration.

    Raises:
        ValueError: fewer than 16 images, or something is not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
        >>> reference = record(model, torch.randn(256, 4))
        >>> reference.channels
        {'input': 4, '1': 8, 'logits': 8, 'confidence': 1}
    """
    kept: list[Rows] = []
    rest = Open({}, 0.0)
    confidence: list[Tensor] = []
    hits: list[Tensor] = []

    def keep(rows: Rows, size: int) -> None:
        nonlocal rest
        if sum(len(next(iter(part.values()))) for part in kept) < images and not rest.images:
            kept.append(rows)
            return
        if not rest.frames:
            rest.frames = _frames(kept)
        rest.add(rows)

    collector = Collector(model, where, keep, positions=positions, seed=seed)
    with torch.no_grad(), evaluating(model):
        collector.attach()
        try:
            for batch in batches(loader, "loader"):
                output = call(model, batch)
                labels = _labels(batch)
                if labels is not None and isinstance(output, Tensor) and output.dim() == 2:
                    best = output.softmax(1).max(1)
                    confidence.append(best.values.float().cpu())
                    hits.append(best.indices.cpu() == labels.cpu())
        finally:
            collector.detach()
    later = rest.closed(0.0, "", "") if rest.size else None
    found = Reference.of(kept, later, positions=positions, draws=draws, seed=seed)
    if hits:
        found.confidence, found.hits = torch.cat(confidence), torch.cat(hits)
    return found


def _labels(batch: Any) -> Tensor | None:
    second = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    whole = isinstance(second, Tensor) and second.dim() == 1 and not second.is_floating_point()
    return second if whole else None


def _frames(kept: list[Rows]) -> dict[str, Frame]:
    return {name: Frame.around(torch.cat([part[name] for part in kept])) for name in kept[0]}


def _spread(count: int, most: int) -> Tensor:
    """At most so many of the indices, evenly spaced."""
    some = min(count, most)
    return (torch.arange(some) * count) // some


def _below(image: Tensor, edges: Tensor) -> Tensor:
    """How many values of an image (C, L) lie below each edge (C, K)."""
    return torch.searchsorted(image.contiguous().sort(1).values, edges).to(torch.int32)


def _channels(histogram: Histogram, index: Tensor) -> Histogram:
    grid = histogram.grid
    part = Grid(grid.exponent[index], grid.offset[index], grid.bins)
    one = (histogram.mass, histogram.moment)
    mass, moment = (numbers[index] for numbers in one)
    return Histogram(mass, moment, part, histogram.mean[index], histogram.std[index])


def _rounded(images: int) -> int:
    """The first five binary digits."""
    shift = max(images.bit_length() - 5, 0)
    return (images >> shift) << shift


def _counts(draws: int, size: int, kept: int, generator: torch.Generator) -> Tensor:
    """How often each of ``kept`` images is drawn in ``size``, with replacement: (draws, kept)."""
    index = torch.randint(kept, (draws, size), generator=generator)
    blank = torch.zeros(draws, kept)
    return blank.scatter_add_(1, index, torch.ones(()).expand(draws, size))


def _tail(ordered: Tensor, values: Tensor) -> Tensor:
    """``(1 + how many of the row are at least as large) / (1 + B)`` for ``values`` (S, M)."""
    smaller = torch.searchsorted(ordered, values.contiguous())
    return (1 + ordered.shape[1] - smaller).double() / (1 + ordered.shape[1])


def _furthest(ordered: Tensor, distances: Tensor) -> Tensor:
    """The largest of ``distances`` (S, M) over signals, (M,), each in units of its own upper tail.

    No p-values, of which many draws share the least one.
    """
    count = ordered.shape[1]
    middle, far = ordered[:, [count // 2]], ordered[:, [int(0.9 * (count - 1))]]
    return ((distances - middle) / (far - middle).clamp_min(1e-12)).amax(0)


def _read(part: dict[str, Tensor]) -> Signal:
    frame = Frame(part["frame"][0].int(), part["frame"][1])
    grid = Grid(part["grid"][0].int(), part["grid"][1], part["mass"].shape[1])
    blank = torch.zeros(len(part["mass"]))
    histogram = Histogram(part["mass"], part["moment"], grid, blank, blank)
    return Signal(
        frame,
        histogram,
        part["channels"],
        part["exponent"],
        part["cells"],
        part["below"],
        int(part["values"]),
    )
