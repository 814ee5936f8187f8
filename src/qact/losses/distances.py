"""Euclidean distances of embeddings, with a gradient of 0 where two of them coincide.

All are computed on embeddings divided by a power of two near their largest value, which rounds
nothing: squares can then neither overflow nor vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qact.first_order import refusing
from qact.vectors import unit_of, unit_vectors, widest

_FEW = 16  # columns of so many points are walked through one by one; more are one matrix product


def pairwise_distances(x: Tensor) -> Tensor:
    """Return ``d_ij = ||x_i - x_j||`` as (N, N), symmetric, with an exact zero diagonal.

    ``x`` is (N, D), float32 or float64; see :func:`distances_between`.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    d2, unit = _squared(x, x)
    d2 = (d2 + d2.T) / 2
    return _root(d2, ~torch.eye(len(x), dtype=torch.bool, device=x.device), unit).to(x.dtype)


METRICS = ("euclidean", "squared", "normalised", "cosine")


def measured(x: Tensor, references: Tensor | None = None, metric: str = "euclidean") -> Tensor:
    """Return distances of embeddings to references, (N, M), or to each other, (N, N).

    Args:
        x: (N, D), float32 or float64.
        references: (M, D); None for ``x``.
        metric: ``"euclidean"``; ``"squared"``, its square; ``"normalised"``, Euclidean of
            embeddings of length 1; ``"cosine"``, ``1 - cos``, half its square.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [4.0, 3.0]])
        >>> [round(measured(x, metric=metric)[0, 1].item(), 4) for metric in METRICS]
        [1.4142, 2.0, 0.2828, 0.04]
    """
    if metric in ("normalised", "cosine"):
        x = unit_vectors(x)
        references = None if references is None else unit_vectors(references)
    if metric == "cosine":
        return 1 - x @ (x if references is None else references).T
    d = pairwise_distances(x) if references is None else distances_between(x, references)
    return d.square() if metric == "squared" else d


def squared_distances(x: Tensor) -> Tensor:
    """Return ``(d_ij / u)^2`` as (N, N), ``u`` a power of two near the largest value of ``x``.

    The squares of :func:`pairwise_distances` without their gradient and their unit: for who asks
    which is nearest.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))  # u = 4
        tensor([[0.0000, 1.5625],
                [1.5625, 0.0000]])
    """
    c = _centred(widest(x) / unit_of(widest(x)))
    own = c.square().sum(1)
    # Lengths first, or rounding takes sides.
    return (
        _symmetric(c, lambda g, i, j: (own[i, None] + own[j]).sub_(g, alpha=2), x.dtype)
        .clamp_min_(0)
        .fill_diagonal_(0)
    )


@torch.no_grad()
def rough_squares(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``|c_j|^2 - 2 c_i c_j`` (N, N), a bound of their rounding (N, 1), and of their size.

    Squared distances up to ``|c_i|^2``, which moves no order in a row, in the precision of ``x``
    and in units of a power of two near its largest value; ``c`` is centred.
    """
    c = _centred(x / unit_of(x))
    length = c.square().sum(1)
    squares = _symmetric(c, lambda g, i, j: g, c.dtype).mul_(-2).add_(length)
    # |fl(a.b) - a.b| <= 4 sqrt(D) u |a||b|, u half of eps, but for one in 1,000 (Higham and Mary
    # 2019: rounding errors add up as random signs). a.b stands twice, beside two lengths.
    most = length.amax()
    bound = (2 * (x.shape[1] + 4) ** 0.5) * torch.finfo(x.dtype).eps * (length + most)
    return squares, bound[:, None], (4 * most).clamp_min(torch.finfo(x.dtype).tiny)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


@torch.no_grad()
def _symmetric(x: Tensor, of: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
    """``of(x_i x_j, i, j)`` (N, N) of rows ``i`` and ``j``, symmetric, as ``dtype``.

    A processor multiplies little more than the half above the diagonal, and goes on with each block
    of rows while it is in the cache.
    """
    n = len(x)
    # Small pieces cost more than they save.
    step = n if x.device.type != "cpu" or min(x.shape) < 256 else -(-n // 8)
    found = x.new_empty(n, n, dtype=dtype)
    with torch.autocast(x.device.type, enabled=False):
        for first in range(0, n, step):
            here, rest = slice(first, first + step), slice(first, n)
            block = of(x[here] @ x[rest].T, here, rest)
            found[here, rest] = block
            found[first + step :, here] = found[here, first + step :].T
            corner = block[:, : block.shape[0]]
            found[here, here] = (corner + corner.T) / 2
    return found


def distances_between(queries: Tensor, x: Tensor) -> Tensor:
    """Return ``||q_i - x_j||`` as (M, N), for ``queries`` (M, D) and ``x`` (N, D) of one dtype.

    By one matrix product, ``d^2 = |q|^2 + |x|^2 - 2 q.x``, of the centred embeddings: distances do
    not see a shift, and the difference then cancels fewer digits. It is taken in float64, so that a
    distance in float32 is right to its last digit unless it is below 1e-5 of the spread; below
    1e-8 of the spread (of float64 embeddings too) nothing of it is left.

    Example:
        >>> distances_between(torch.tensor([[3.0]]), torch.tensor([[1.0], [3.0], [9.0]]))
        tensor([[2., 0., 6.]])
    """
    d2, unit = _squared(queries, x)
    return _root(d2, torch.ones_like(d2, dtype=torch.bool), unit).to(x.dtype)


def _squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (M, N) in units of the second result, which is a scalar."""
    unit = unit_of(b if a is b else torch.cat([a, b]))
    a, b = (widest(t / unit) for t in (a, b))
    centre = b.detach().mean(0)
    a, b = a - centre, b - centre
    with torch.autocast(a.device.type, enabled=False):  # which would halve the digits of a @ b.T
        return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T), unit


def _root(d2: Tensor, some: Tensor, unit: Tensor) -> Tensor:
    # The root is taken of 1 where d = 0, so that its infinite slope meets no gradient. Written so
    # that NaN stays NaN.
    apart = ~(d2 <= 0) & some
    return torch.where(apart, torch.where(apart, d2, 1).sqrt(), 0) * unit


def distances_to(x: Tensor, index: Tensor) -> Tensor:
    """Return ``||x_i - x_index[i, k]||`` as (N, K): differences first, so no digits cancel.

    Memory is O(N (D + K)), not O(N K D). ``x`` is (N, D), ``index`` (N, K) integer.

    Example:
        >>> distances_to(torch.tensor([[0.0], [2.0]]), torch.tensor([[1], [1]]))
        tensor([[2.],
                [0.]])
    """
    found: Tensor = _DistancesTo.apply(x, index)
    return found


class _DistancesTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        unit = unit_of(x)
        c = x / unit
        columns = [(c - c.index_select(0, j)).norm(dim=1) for j in index.unbind(1)]
        d = torch.stack(columns, 1) if columns else c.new_zeros(index.shape)
        ctx.save_for_backward(c, index, d, x)
        return d * unit

    @staticmethod
    @refusing("distances to neighbours have no second derivative")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # dL/dx_i = sum_j (W_ij + W_ji) (x_i - x_j) with W_ij = dL/dd_ij / d_ij, and 0 where d = 0.
        # A slope has no unit.
        c, index, d, _ = ctx.saved_tensors
        share = torch.where(d > 0, grad / torch.where(d > 0, d, 1), 0)
        if _FEW * index.shape[1] < len(c):
            gradient = torch.zeros_like(c)
            for j, w in zip(index.unbind(1), share.unbind(1), strict=True):
                pull = (c - c.index_select(0, j)).mul_(w[:, None])
                gradient.add_(pull).index_add_(0, j, pull, alpha=-1)
            return gradient, None
        weight = c.new_zeros(len(c), len(c)).scatter_add_(1, index, share)
        both = weight + weight.T
        centred = _centred(c)
        return both.sum(1, keepdim=True) * centred - both @ centred, None
