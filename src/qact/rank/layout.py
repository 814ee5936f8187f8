"""One shape for every layer: (outer, channels, inner), a view wherever strides allow."""

from __future__ import annotations

import math

from torch import Tensor

from qact import checks


def channel_dim(input: Tensor, dim: int) -> int:
    """The non-negative index of the channel dimension; a clear error if ``dim`` does not exist."""
    checks.integer("dim", dim)
    if input.dim() < 1 or not -input.dim() <= dim < input.dim():
        raise IndexError(
            f"dim={dim} is out of range for an input of shape {tuple(input.shape)}; "
            f"valid values are {-input.dim()} to {input.dim() - 1}"
        )
    return dim % input.dim()


def fold(input: Tensor, dim: int) -> Tensor:
    """View ``input`` as (N, C, L) with the channels ``C`` at ``dim``.

    Channels-last memory folds to (N * L, C, 1), which is a view of it; contiguous memory folds to
    (product before dim, C, product after dim). Other layouts are copied once.

    >>> import torch
    >>> fold(torch.zeros(2, 3, 4, 5), 1).shape
    torch.Size([2, 3, 20])
    >>> fold(torch.zeros(2, 7, 3), -1).shape
    torch.Size([14, 3, 1])
    """
    dim = channel_dim(input, dim)
    channels = input.shape[dim]
    if not input.is_contiguous() and _channels_last(input, dim):
        return input.movedim(dim, -1).reshape(-1, channels, 1)
    # Size.numel() would make a constant of a dynamic size.
    outer, inner = math.prod(input.shape[:dim]), math.prod(input.shape[dim + 1 :])
    return input.reshape(outer, channels, inner)


def unfold(folded: Tensor, like: Tensor, dim: int) -> Tensor:
    """Undo :func:`fold`: give ``folded`` the shape (and memory order) of ``like``."""
    dim, folded = channel_dim(like, dim), folded.contiguous()
    if not like.is_contiguous() and _channels_last(like, dim):
        shape = (*like.shape[:dim], *like.shape[dim + 1 :], like.shape[dim])
        return folded.reshape(shape).movedim(-1, dim)
    return folded.reshape(like.shape)


def _channels_last(input: Tensor, dim: int) -> bool:
    return input.movedim(dim, -1).is_contiguous()
