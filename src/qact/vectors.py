"""Vectors in any unit: lengths, unit vectors, and the distances between them.

Squares of float32 overflow from 1.8e19 on and vanish below 1e-23, those of float16 from 256 on. All
that squares embeddings, weights or activations does it here, in another unit or another precision.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from qact import _compat
from qact.first_order import one_by_one


def unit_of(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Return a power of two near the largest finite absolute value, of all or along ``dim``.

    Dividing by it rounds nothing, and leaves values below 4. It is 1 where all are 0, and has no
    gradient; the dimension stays.

    Example:
        >>> unit_of(torch.tensor([[3.0, -5.0], [0.0, 1e-30]]))
        tensor(4.)
        >>> unit_of(torch.tensor([[3.0, -5.0], [0.0, 0.0]]), 1)
        tensor([[4.],
                [1.]])
    """
    size = wide(x.detach().abs())
    size = torch.where(torch.isfinite(size), size, 0.0)  # one such row would take all with it
    if not size.numel():
        return x.new_ones(() if dim is None else size.sum(dim, keepdim=True).shape)
    most = size.amax() if dim is None else size.amax(dim, keepdim=True)
    # Not by frexp: exported graphs have no such operation. The reciprocal has to be a number, too.
    limits = torch.finfo(x.dtype)
    most = torch.where(most == 0, 1.0, most.clamp_min(4 * limits.tiny))
    exponent = torch.log2(most).floor().clamp_max(math.frexp(limits.max)[1] - 1)
    return torch.exp2(exponent).to(x.dtype)


def exact(device: str) -> AbstractContextManager[Any]:
    """Without autocast, which costs a small loss a twentieth of its time if it is off anyway."""
    off = not torch.is_autocast_enabled(device)
    return nullcontext() if off else torch.autocast(device, enabled=False)


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in float32 at least.

    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def widest(x: Tensor) -> Tensor:
    """Return ``x`` in float64, or float32 on devices without it."""
    return x.float() if x.device.type == "mps" else x.double()


def lengths(x: Tensor, dim: int = -1) -> Tensor:
    """Return ``||x||`` along ``dim``, which stays, in the dtype of ``x``.

    Example:
        >>> lengths(torch.tensor([[3e25, 4e25], [3e-25, 4e-25]]))
        tensor([[5.0000e+25],
                [5.0000e-25]])
    """
    if x.dtype == torch.float64 or x.device.type == "mps":
        unit = unit_of(x, dim)
        return torch.linalg.vector_norm(x / unit, dim=dim, keepdim=True) * unit
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64)
    return norm.to(x.dtype)


def unit_vectors(x: Tensor, dim: int = -1) -> Tensor:
    """Return ``x / ||x||`` along ``dim``; zeros stay.

    :func:`torch.nn.functional.normalize` of any size, and the same bits where its squares are
    numbers.

    Example:
        >>> unit_vectors(torch.tensor([[3e25, 4e25], [3e-25, 4e-25], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    x = x / unit_of(x, dim)
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


def unit_rows(x: Tensor) -> Tensor:
    """Return ``x_i / ||x_i||`` (N, D), as :func:`unit_vectors`: one node of the graph for many.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    if _compat.watched():
        return unit_vectors(x)
    found: Tensor = _UnitRows.apply(x)
    return found


def _of_length(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows and the lengths of the rows; zeros, which stay, count as of length 1."""
    length = lengths(x)
    length = torch.where(length > 0, length, 1)
    return x / length, length


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        unit, length = _of_length(x)
        ctx.save_for_backward(x, unit, length)
        return unit

    @staticmethod
    @one_by_one
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        x, unit, length = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of what follows may be asked for
            unit, length = _of_length(x)
        along = (upstream * unit).sum(1, keepdim=True)
        return upstream.addcmul(unit, along, value=-1).div_(length)


def standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation (D,) of columns (N, D), 1 where one is constant.

    In the dtype of ``x``; what its rounding could have made of one value counts as constant.

    Example:
        >>> standard(torch.tensor([[1e-30, 0.1], [3e-30, 0.1]]))[1]
        tensor([1.0000e-30, 1.0000e+00])
    """
    z = widest(x)
    unit = unit_of(z, 0)
    mean, std = (z / unit).mean(0) * unit[0], (z / unit).std(0, correction=0) * unit[0]
    varies = std > torch.finfo(x.dtype).eps * mean.abs()
    return mean.to(x.dtype), torch.where(varies, std, 1.0).to(x.dtype)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ``||a_i - b_j||``, (N, M) of (N, D) and (M, D), of differences: nothing cancels.

    Taken in float64, so that small vectors beside large ones keep their distances; in the dtype of
    ``a``.

    Example:
        >>> distances(torch.tensor([[3e25, 0.0], [0.0, 3e-25]]), torch.tensor([[0.0, 4e-25]]))
        tensor([[3.0000e+25],
                [1.0000e-25]])
    """
    x, y = widest(a), widest(b)
    unit = unit_of(torch.cat([x.flatten(), y.flatten()]))
    found = torch.cdist(x / unit, y / unit, compute_mode="donot_use_mm_for_euclid_dist")
    return (found * unit).to(a.dtype)
