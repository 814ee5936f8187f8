"""Sparse activations: what lies near a channel's mode is taken for it, by quantiles of contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.kernels import eager
from qact.rank.histogram import Histogram
from qact.rank.layout import fold
from qact.recalibrate.mapping import PLAIN
from qact.recalibrate.transfer import Stream
from qact.surgery import Where, evaluating, hooking, tapped
from qact.taps.block import Block
from qact.taps.classifier import labelled, logits_of
from qact.taps.observe import atoms
from qact.taps.place import Place, places
from qact.taps.taps import tap

BINS = 512
NOTHING = -1.0  # a distance within which nothing lies
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def threshold(context: Histogram, share: float, center: bool = True) -> tuple[Tensor, float]:
    """The mode (C,) of each channel, and the distance from it within which a ``share`` lies.

    One distance for the layer, as SCAP and TEAL have it: the quantile of ``|x - mode|`` over all
    channels, each bin's values at their mean. The mode is the mean of the fullest bin, or zero.
    """
    values, mass = atoms(context)
    fullest = mass.argmax(1, keepdim=True)
    mode = values.gather(1, fullest) if center else mass.new_zeros(len(mass), 1)
    if share == 0:
        return mode[:, 0], NOTHING
    # Of the bin around the mode only the mean is known: its values may be a width away from it.
    width = context.grid.width(torch.float64)[:, None]
    distance = torch.maximum((values - mode).abs(), width)
    distance, order = distance.flatten().sort()
    below = mass.flatten()[order].cumsum(0)
    last = min(int(torch.searchsorted(below, share * below[-1])), len(distance) - 1)
    return mode[:, 0], float(distance[last])


class Sparsified(Block):
    """A block in which layers are given sparse inputs; it counts what they leave out."""

    def __init__(
        self,
        model: nn.Module,
        found: tuple[Place, ...],
        contexts: Mapping[str, Context],
        share: float,
        center: bool,
        rank: int,
        memory: float | None,
    ) -> None:
        super().__init__(model, found)
        self._share, self._center = share, center
        self._levels = {
            place.name: threshold(contexts[place.name].histogram, share, center) for place in found
        }
        self._streams = {place.name: Stream(memory) for place in found} if memory else {}
        self._low = {place.name: _truncated(place, rank) for place in found} if rank else {}
        self._rest: dict[str, Tensor] = {}
        self._counts = {place.name: [0, 0, 0.0] for place in found}  # left out, all, operations

    def open(self) -> Any:
        """Begin."""
        super().open()
        if self._low and self._hooks is not None:
            self._hooks.enter_context(hooking(self.model))
            for place in self.places:
                added = self._adding(place.name)
                self._hooks.enter_context(tapped(place.module, added, "output"))
        return self

    def _told(self, place: Place, z: Tensor) -> Tensor:
        mode, reach = self._level(place, z)
        column = mode.to(z).reshape([-1 if d == place.channel(z) else 1 for d in range(z.dim())])
        near = (z - column).abs() <= reach
        new = torch.where(near, column, z)
        counts = self._counts[place.name]
        counts[0] += int((new == column).sum())
        counts[1] += z.numel()
        counts[2] += _operations(place, z)
        if self._low:
            self._rest[place.name] = z - new
        return new

    def _level(self, place: Place, z: Tensor) -> tuple[Tensor, float]:
        if not self._streams:
            return self._levels[place.name]
        seen = eager.observe(fold(z.detach(), place.channel(z)).float(), PLAIN, BINS)
        stream = self._streams[place.name].follow(seen, len(z))
        return threshold(stream, self._share, self._center)

    def _adding(self, name: str) -> Any:
        return lambda output: output + self._rest.pop(name) @ self._low[name].mT

    @property
    def shares(self) -> dict[str, float]:
        """Which share of its input entries each layer was given as the mode."""
        return {
            name: left / all_ if all_ else 0.0 for name, (left, all_, _) in self._counts.items()
        }

    @property
    def saved(self) -> float:
        """Which share of the layers' multiplications an ideal kernel would leave out.

        In principle: torch's dense kernels, which run here, save no time by it.
        """
        every = sum(operations for *_, operations in self._counts.values())
        left = sum(self.shares[name] * c[2] for name, c in self._counts.items())
        return left / every if every else 0.0


def sparsify(
    model: nn.Module,
    batches: Any,
    share: float = 0.5,
    where: Where = None,
    *,
    center: bool = True,
    rank: int = 0,
    follow: float | None = None,
) -> Sparsified:
    """Within a block, give layers with weights inputs of which a share stands at one value.

    Entries within a distance of their channel's mode become it, ``x <- m where |x - m| <= t``,
    with ``t`` the ``share`` quantile of ``|x - m|`` in the layer's context. As ``W m`` goes into
    the bias, ``W x + b = W (x - m) + (b + W m)``, those entries need no multiplication (SCAP,
    arXiv 2412.07174; with ``center=False`` the mode is zero, TEAL, arXiv 2408.14690).

    Args:
        model: any network; it stays as it is.
        batches: calibration data, one pass in ``eval()``; or contexts by the layers' names, such as
            ``tap(model, where, side="input").observe()`` has counted.
        share: of the entries, in [0, 1).
        where: layers as in :func:`qact.tap`; None is every linear layer and convolution.
        center: by the mode of each channel; otherwise by zero.
        rank: of linear layers, let what is left out pass a map of this rank, the best of ``W``:
            ``W T(x) + W_r (x - T(x))`` (R-Sparse, arXiv 2504.19449). 0 leaves it out.
        follow: a memory in samples after which the stream before is forgotten: contexts, modes and
            distances are then those of the stream of batches. None keeps those of ``batches``.

    Raises:
        ValueError: there is no such layer, an option does not fit, or a value is not finite.

    Example:
        >>> import qact
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> x = torch.randn(64, 8)
        >>> with qact.sparsify(net, x, 0.7, "2") as sparse:
        ...     y = net(x)
        >>> 0.65 < sparse.shares["2"] < 0.75
        True
    """
    checks.within("share", share, 0, 1)
    checks.integer("rank", rank, 0)
    if follow is not None:
        checks.number("follow", follow, "a positive number of samples", 0)
    chosen = (lambda module, name: isinstance(module, WEIGHTED)) if where is None else where
    found = places(model, chosen, side="input")
    for place in found:
        if not isinstance(place.module, WEIGHTED) or (
            rank and not isinstance(place.module, nn.Linear)
        ):
            kinds = "a linear layer" if rank else "a linear layer or convolution"
            raise ValueError(f"{place.name!r} is a {type(place.module).__name__}; choose {kinds}")
    contexts = batches if _are_contexts(batches) else _observed(model, batches, chosen)
    missing = [place.name for place in found if place.name not in contexts]
    if missing:
        raise ValueError(f"there is no context for {', '.join(missing)}")
    return Sparsified(model, found, contexts, share, checks.flag("center", center), rank, follow)


def _are_contexts(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(given[name], Context) for name in given)


@torch.no_grad()
def _observed(model: nn.Module, batches: Any, where: Where) -> Mapping[str, Context]:
    observing = tap(model, where, side="input").observe(bins=BINS)
    observing.run(batches)
    return observing


def _truncated(place: Place, rank: int) -> Tensor:
    """The best matrix of that rank for a layer's weight (Eckart and Young 1936)."""
    weight: Any = place.module.weight
    left, sizes, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return ((left[:, :rank] * sizes[:rank]) @ right[:rank]).to(weight)


def _operations(place: Place, z: Tensor) -> float:
    """Multiplications of a layer for an input, its borders taken for its inside."""
    module: Any = place.module
    rows = z.numel() / z.shape[place.channel(z)] / math.prod(getattr(module, "stride", (1,)))
    return rows * module.weight.numel()


@dataclass(frozen=True)
class Point:
    """Accuracy at a share that was asked for; what was found, and what it saves in principle."""

    share: float
    found: float
    accuracy: float
    saved: float


@torch.no_grad()
def sparsity_curve(
    model: nn.Module, batches: Any, labelled_batches: Any, shares: Sequence[float], **options: Any
) -> list[Point]:
    """Accuracy against share, each on the same labelled batches; options as in :func:`sparsify`.

    Args:
        model: a classifier, run in ``eval()``.
        batches: calibration data, read once.
        labelled_batches: (images, labels), clean or shifted.
        shares: such as ``[0, 0.3, 0.5, 0.7]``.
    """
    pairs = labelled(labelled_batches, "labelled_batches")
    where = options.pop("where", None) or (lambda module, name: isinstance(module, WEIGHTED))
    contexts = batches if _are_contexts(batches) else _observed(model, batches, where)
    points = []
    for share in shares:
        block = sparsify(model, contexts, share, where, **options)
        with evaluating(model), block:
            right = [int((logits_of(model, b).argmax(1) == y).sum()) for b, y in pairs]
        left, every = (sum(c[i] for c in block._counts.values()) for i in (0, 1))
        total = sum(len(y) for _, y in pairs)
        points.append(Point(share, left / every, sum(right) / total, block.saved))
    return points


def accuracy_sparsity(curve: Sequence[Point], loss: float = 0.01) -> float:
    """Return the largest share whose accuracy is at most ``loss`` below the curve's first point.

    Accuracy in the place of perplexity in PPL-p% sparsity (Luo et al. 2024, arXiv 2411.02335).
    """
    kept = [point.found for point in curve if point.accuracy >= curve[0].accuracy - loss]
    return max(kept)
