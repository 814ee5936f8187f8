"""Affine maps of a batch, each image with its own, sampled bilinearly on black."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Image ``n`` at ``(column, row)`` is ``x[n]`` at ``matrix[n] @ (column, row, 1)``, 0 outside.

    Args:
        x: (N, C, H, W).
        matrix: float64 (N, 2, 3): the place that is read, first its column, then its row.

    Returns:
        Bilinear samples, (N, C, H, W).

    Example:
        >>> shift = torch.tensor([[[1.0, 0, 1], [0, 1, 0]]], dtype=torch.float64)
        >>> warp(torch.arange(4.0).view(1, 1, 1, 4), shift)
        tensor([[[[1., 2., 3., 0.]]]])
    """
    n, c, h, w = x.shape
    rows = torch.arange(h, dtype=torch.float64, device=x.device)[:, None]
    columns = torch.arange(w, dtype=torch.float64, device=x.device)
    # Whole sums in float64: the same bits for any batch.
    z, y = (
        (m[:, 0, None, None] * columns + m[:, 1, None, None] * rows + m[:, 2, None, None])
        for m in matrix.unbind(1)
    )
    top, left = y.floor(), z.floor()
    down, right = (y - top).float(), (z - left).float()
    black = pad(x, (1, 1, 1, 1)).flatten(2)
    out = torch.zeros_like(x)
    for i, a in ((1, 1 - down), (2, down)):
        row = (top + i).clamp_(0, h + 1).mul_(w + 2)
        for j, b in ((1, 1 - right), (2, right)):
            at = (row + (left + j).clamp_(0, w + 1)).long()
            at = at.view(n, 1, h * w).expand(n, c, h * w)
            out += black.gather(2, at).view_as(x) * (a * b)[:, None]
    return out


def about_centre(linear: Tensor, h: int, w: int) -> Tensor:
    """Return (N, 2, 3) maps of which ``linear`` (N, 2, 2) is the matrix and the centre is fixed."""
    centre = torch.tensor([(w - 1) / 2, (h - 1) / 2], dtype=torch.float64, device=linear.device)
    moved = linear[:, :, 0] * centre[0] + linear[:, :, 1] * centre[1]
    return torch.cat([linear, (centre - moved)[:, :, None]], 2)
