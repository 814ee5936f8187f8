"""What a layer has seen on source data: a context, and how much samples differ in their means."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from qact.context import Context
from qact.layout import channel_dim


class SourceContext(Context):
    """A :class:`qact.Context` that also knows the ``scatter`` (C,): the variance between samples.

    ``scatter`` is that of the means of single samples, over their positions; divided by ``n`` it is
    the variance that the mean of ``n`` source samples has by chance. ``samples`` counts them.

    Example:
        >>> SourceContext(2).add(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).scatter
        tensor([1., 0.])
    """

    scatter: Tensor
    samples: Tensor

    def __init__(self, num_features: int, bins: int = 512, **options: Any) -> None:
        super().__init__(num_features, bins, **options)
        self.register_buffer("scatter", torch.zeros_like(self.mean))
        self.register_buffer("samples", torch.zeros_like(self.batches))

    @torch.no_grad()
    def add(self, input: Tensor, *, dim: int = 1) -> SourceContext:
        """Count every value of ``input``, whose first dimension (but ``dim``) is the samples'."""
        before = self.mean.double()
        super().add(input, dim=dim)
        means = input.detach().movedim(channel_dim(input, dim), -1).double()
        means = means.flatten(1, -2).mean(1) if means.dim() > 2 else means
        return self._join(means.var(0, correction=0), means.mean(0) - before, len(means))

    @torch.no_grad()
    def merge(self, other: Context) -> SourceContext:
        """Add all that ``other`` has counted; only another of this kind knows its samples."""
        gap = other.mean.double() - self.mean.double()
        super().merge(other)
        if isinstance(other, SourceContext):
            self._join(other.scatter.double(), gap, int(other.samples))
        return self

    def _join(self, scatter: Tensor, gap: Tensor, samples: int) -> SourceContext:
        """The variance of both sets of means together, whose centres are ``gap`` apart."""
        share = samples / max(int(self.samples) + samples, 1)
        gap = gap * (share < 1)
        joint = (1 - share) * self.scatter + share * scatter + share * (1 - share) * gap**2
        self.scatter.copy_(joint)
        self.samples += samples
        return self

    def clone(self) -> SourceContext:
        """An independent copy."""
        return copy.deepcopy(self)
