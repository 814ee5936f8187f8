"""What follows a batch in training: a running context, and the statistics of the norms around it.

A compiled engine may move all of it in the launch that has the batch's bins at hand; what it leaves
to PyTorch is here, so that there is one arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qact.kernels.columns import IN_MEAN, IN_VAR, OUT_MEAN, OUT_VAR


class Norm(NamedTuple):
    """Running statistics of a BatchNorm; with momentum None they are the mean over batches."""

    mean: Tensor
    variance: Tensor
    batches: Tensor
    momentum: float | None

    def clone(self) -> Norm:
        """A copy that may be moved for a trial."""
        return Norm(self.mean.clone(), self.variance.clone(), self.batches.clone(), self.momentum)

    @property
    def rate(self) -> float:
        """How far the next batch moves them."""
        return 1.0 / (int(self.batches) + 1) if self.momentum is None else self.momentum

    @property
    def single(self) -> bool:
        """Whether they are what a compiled engine can move: float32, counted in int64."""
        kinds = self.mean.dtype, self.variance.dtype, self.batches.dtype
        return kinds == (torch.float32, torch.float32, torch.int64)

    def follow(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Move towards a batch of so many ``values`` a channel, with the unbiased variance."""
        self.batches.add_(1)
        rate: Tensor | float | None = self.momentum
        if rate is None:  # by a tensor: a number would be waited for
            rate = self.batches.double().reciprocal().to(self.mean.dtype)
        unbiased = variance * (values / max(values - 1, 1))
        for running, seen in ((self.mean, mean), (self.variance, unbiased)):
            running.lerp_(seen.to(running.dtype), rate)


class Following(NamedTuple):
    """``context``: mass, moment, mean, std, exponent, offset, moved in place by every engine."""

    context: tuple[Tensor, ...]
    batches: Tensor
    momentum: float | None
    before: Norm | None = None
    behind: Norm | None = None

    def clone(self) -> Following:
        """A copy that may be moved for a trial."""
        norms = (None if n is None else n.clone() for n in (self.before, self.behind))
        context = tuple(t.clone() for t in self.context)
        return Following(context, self.batches.clone(), self.momentum, *norms)

    @property
    def rate(self) -> float:
        """How far the context moves: the mean over batches at first, then ``momentum``."""
        return max(1.0 / (int(self.batches) + 1), self.momentum or 0.0)

    def advance(self, state: Tensor, values: int, moved: bool = False) -> None:
        """Count the batch that ``state`` (C, 12) describes, and let the norms follow it.

        Where an engine has ``moved`` what it can, the context's count and norms in float32, only
        the rest.
        """
        if moved:  # a kernel's writing is not seen by who counts changes
            torch.autograd.graph.increment_version(self.counters)
        else:
            self.batches.add_(1)
        columns = (IN_MEAN, IN_VAR), (OUT_MEAN, OUT_VAR)
        for norm, (mean, variance) in zip((self.before, self.behind), columns, strict=True):
            if norm is not None and not (moved and norm.single):
                norm.follow(state[:, mean], state[:, variance], values)

    @property
    def counters(self) -> list[Tensor]:
        """The numbers of batches: autograd must learn that they have changed."""
        return [self.batches, *(n.batches for n in (self.before, self.behind) if n is not None)]
