"""Euclidean distances of embeddings, with a gradient of 0 where two of them coincide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pairwise_distances(x: Tensor) -> Tensor:
    """Return ``d_ij = ||x_i - x_j||`` as (N, N), symmetric, with an exact zero diagonal.

    By one matrix product, ``d^2 = |x_i|^2 + |x_j|^2 - 2 x_i.x_j``, of the centred embeddings:
    distances do not see a shift, and the difference then cancels fewer digits. In float32 a
    distance far below the spread of the batch still carries an error of about 1e-3 of that spread.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    x = x - x.detach().mean(0)
    square = x.square().sum(1)
    with torch.autocast(x.device.type, enabled=False):  # which would halve the digits of x @ x.T
        d2 = square[:, None] + square - 2 * (x @ x.T)
    d2 = (d2 + d2.T) / 2
    apart = ~(d2 <= 0) & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    # The root is taken of 1 where d = 0, so that its infinite slope meets no gradient.
    return torch.where(apart, torch.where(apart, d2, 1).sqrt(), 0)


def distances_to(x: Tensor, index: Tensor) -> Tensor:
    """Return ``||x_i - x_index[i, k]||`` as (N, K): differences first, so no digits cancel.

    Memory is O(N (D + K)), not O(N K D). ``x`` is (N, D), ``index`` (N, K) integer.

    Example:
        >>> distances_to(torch.tensor([[0.0], [2.0]]), torch.tensor([[1], [1]]))
        tensor([[2.],
                [0.]])
    """
    return _DistancesTo.apply(x, index)


class _DistancesTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        columns = [(x - x.index_select(0, j)).norm(dim=1) for j in index.unbind(1)]
        d = torch.stack(columns, 1) if columns else x.new_zeros(index.shape)
        ctx.save_for_backward(x, index, d)
        return d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # dL/dx_i = sum_j (W_ij + W_ji) (x_i - x_j) with W_ij = dL/dd_ij / d_ij, and 0 where d = 0.
        x, index, d = ctx.saved_tensors
        share = torch.where(d > 0, grad / torch.where(d > 0, d, 1), 0)
        weight = x.new_zeros(len(x), len(x)).scatter_add_(1, index, share)
        both = weight + weight.T
        centred = x - x.mean(0)
        return both.sum(1, keepdim=True) * centred - both @ centred, None
