"""One shape for every layer: (outer, channels, inner), a view wherever strides allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qact import checks


@dataclass(frozen=True)
class Channels:
    """An input that has been asked what it is: floating, with so many channels at ``dim``."""

    input: Tensor
    dim: int

    @classmethod
    def of(
        cls, input: Tensor, dim: int, expected: int | None = None, whose: str = "this layer"
    ) -> Channels:
        """Ask it; ``whose`` says who expects that number of channels.

        Raises:
            TypeError: no floating dtype, or a nested tensor. ValueError: no such dimension, or
                another number.
        """
        checks.tensors(input=input)
        if input.is_nested:
            raise TypeError(
                "the input is a nested tensor, which has no channels of one length: convert the "
                "nn.TransformerEncoder as a whole, or set its use_nested_tensor = False"
            )
        if not input.is_floating_point():
            raise TypeError(f"the input has dtype {input.dtype}; a floating dtype is needed")
        found = cls(input, channel_dim(input, dim))
        if expected is not None and found.number != expected:
            raise ValueError(
                f"the input has {found.number} channels at dim {dim} "
                f"(shape {tuple(input.shape)}); {whose} has {expected}"
            )
        return found

    @property
    def number(self) -> int:
        """How many channels."""
        return self.input.shape[self.dim]

    @property
    def empty(self) -> bool:
        """Whether it holds no value."""
        return self.input.numel() == 0

    @property
    def samples(self) -> int:
        """Size of the first dimension that is not the channels'."""
        sizes = [n for i, n in enumerate(self.input.shape) if i != self.dim]
        return sizes[0] if sizes else 1

    @property
    def z(self) -> Tensor:
        """The values as (N, C, L)."""
        return _fold(self.input, self.dim)

    @property
    def dense(self) -> Tensor:
        """The values as (N, C, ...): the input itself where it lies so in memory, or :attr:`z`."""
        plain = self.dim == 1 and self.input.is_contiguous()
        return self.input if plain else self.z

    @property
    def wide(self) -> Tensor:
        """The same in the dtype of the computation: float32 or float64."""
        return self.z if self.input.dtype == torch.float64 else self.z.float()

    def back(self, folded: Tensor) -> Tensor:
        """Give (N, C, L) the shape, memory order and dtype of the input."""
        if folded.shape == self.input.shape and self.input.is_contiguous():
            return folded.to(self.input.dtype)
        return _unfold(folded.to(self.input.dtype), self.input, self.dim)

    def filled(self) -> Channels:
        """Itself, or ValueError if it holds no value."""
        if self.empty:
            shape = tuple(self.input.shape)
            raise ValueError(f"the input has shape {shape}: an empty batch has no ranks")
        return self


def channel_dim(input: Tensor, dim: int) -> int:
    """The non-negative index of the channel dimension; ValueError if ``dim`` does not exist."""
    checks.integer("dim", dim)
    number = input.dim()
    if not -number <= dim < number:
        valid = f"valid values are {-number} to {number - 1}" if number else "it has no dimensions"
        raise ValueError(
            f"dim={dim} is out of range for an input of shape {tuple(input.shape)}; {valid}"
        )
    return dim % number


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
    return _fold(input, channel_dim(input, dim))


def _fold(input: Tensor, dim: int) -> Tensor:
    if not input.is_contiguous() and channels_last(input, dim):
        return input.movedim(dim, -1).reshape(-1, input.shape[dim], 1)
    # Size.numel() would make a constant of a dynamic size.
    outer, inner = math.prod(input.shape[:dim]), math.prod(input.shape[dim + 1 :])
    return input.reshape(outer, input.shape[dim], inner)


def fold_like(input: Tensor, like: Tensor, dim: int) -> Tensor:
    """:func:`fold` with the values in the order that those of ``like`` have in memory."""
    if not like.is_contiguous() and channels_last(like, dim):
        return input.movedim(dim, -1).reshape(-1, input.shape[dim], 1)
    return _fold(input.contiguous(), dim)


def unfold(folded: Tensor, like: Tensor, dim: int) -> Tensor:
    """Undo :func:`fold`: give ``folded`` the shape (and memory order) of ``like``."""
    return _unfold(folded, like, channel_dim(like, dim))


def _unfold(folded: Tensor, like: Tensor, dim: int) -> Tensor:
    folded = folded.contiguous()
    if not like.is_contiguous() and channels_last(like, dim):
        shape = (*like.shape[:dim], *like.shape[dim + 1 :], like.shape[dim])
        return folded.reshape(shape).movedim(-1, dim)
    return folded.reshape(like.shape)


def memory_order(input: Tensor, dim: int) -> tuple[int, int, int]:
    """Of dense memory, contiguous or channels last: the (N, C, L) of :func:`fold`."""
    shape = input.shape
    outer, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    return (outer, shape[dim], inner) if input.is_contiguous() else (outer * inner, shape[dim], 1)


def channels_last(input: Tensor, dim: int) -> bool:
    """Whether the channels of a sample lie side by side in memory."""
    return input.movedim(dim, -1).is_contiguous()
