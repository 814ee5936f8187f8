"""Values of a shifted batch, mapped onto the source by their ranks: pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qact.context import Context
from qact.kernels import eager
from qact.rank.histogram import Histogram
from qact.rank.layout import channel_dim, fold, unfold
from qact.rank.moving import moved
from qact.recalibrate.mapping import PLAIN, rank_map

FEWEST, MOST = 128, 1024  # bins of a test context; a stream keeps the middle of the two


class Stream:
    """The test context of a stream: each batch is forgotten as ``exp(-samples since / memory)``.

    A channel whose batch is not finite is left as it was.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.samples = 0.0
        self.seen: Histogram | None = None

    def follow(self, batch: Histogram, samples: int) -> Histogram:
        """Take in a batch of that many samples; return the context of the stream."""
        unit = batch.scaled(1 / batch.count)
        old = math.exp(-samples / self.memory) * self.samples
        self.samples = old + samples
        rate = torch.as_tensor(samples / self.samples, dtype=unit.mass.dtype)
        stored = unit.scaled(0.0) if self.seen is None else self.seen
        self.seen = moved(stored, unit, rate.to(unit.mass.device))
        return self.seen.scaled(batch.count * (self.samples / samples))


def by_rank(
    input: Tensor,
    source: Context,
    *,
    dim: int = 1,
    prior: float = 0.0,
    shape: float = 1.0,
    stream: Stream | None = None,
) -> Tensor:
    """``Q_source(F(z))`` per channel: the value of the same rank in the source context.

    Mehrbod et al. 2025, arXiv 2511.03148. ``F`` ranks in the batch (or the ``stream`` that it
    continues) and the source together, which counts as ``prior`` samples of the batch's size.

    Args:
        input: pre-activations, any floating dtype, channels at ``dim``, samples at the first other
            dimension.
        source: what they looked like on source data.
        prior: samples that the source counts for in ``F``; 0 ranks in the test data alone.
        shape: 1 is the map by rank, 0 a line that matches mean and spread, between is between.
        stream: the test context of earlier batches, which this one then joins.

    Returns:
        A tensor like ``input``; a channel that holds something not finite comes back unchanged.

    Raises:
        ValueError: the channels do not fit. RuntimeError: the source context is empty.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> source = Context(1).add(torch.randn(1000, 1))
        >>> z = torch.randn(500, 1)
        >>> bool((by_rank(torch.exp(z), source) - z).abs().mean() < 0.1)
        True
    """
    _check(input, source, dim)
    z = fold(input, dim)
    wide = z if z.dtype == torch.float64 else z.float()
    with torch.no_grad():
        samples = next(n for i, n in enumerate(input.shape) if i != channel_dim(input, dim))
        bins = _bins(wide.shape[0] * wide.shape[2]) if stream is None else 512
        batch = eager.observe(wide.detach(), PLAIN, bins)
        test, count = batch, float(samples)
        if stream is not None:
            test, count = stream.follow(batch, samples), stream.samples
        share = count / (count + prior)
        table = rank_map(test, source.histogram, share, shape).to(wide.dtype)
        sound = torch.isfinite(batch.mean)
    new = eager.interpolate(wide.contiguous(), table.contiguous(), test.grid)
    if not bool(sound.all()):
        new = torch.where(sound[:, None], new, wide)
    return unfold(new.to(z.dtype), input, dim)


def _bins(values: int) -> int:
    """About a quarter of the values per channel, as a power of two: more tell nothing new."""
    return min(max(1 << (values // 4).bit_length(), FEWEST), MOST)


def _check(input: Tensor, source: Context, dim: int) -> None:
    if not input.is_floating_point():
        raise TypeError(f"the input has dtype {input.dtype}; a floating dtype is needed")
    fits = input.dim() > 1 and input.numel() > 0
    if not fits or input.shape[channel_dim(input, dim)] != source.num_features:
        raise ValueError(
            f"the input has shape {tuple(input.shape)}; expected samples, and "
            f"{source.num_features} channels at dim {dim}, as the source context has"
        )
    if not torch.compiler.is_compiling():
        source.require_data()
