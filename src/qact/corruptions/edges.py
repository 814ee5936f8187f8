"""Canny's edge detector (1986) as scikit-image computes it, on a batch of grey images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from qact.corruptions.blur import smooth
from qact.corruptions.spatter import connected


def _neighbour(x: Tensor, down: int, right: int) -> Tensor:
    """The value (down, right) of each pixel of (N, H, W); 0 outside."""
    h, w = x.shape[1:]
    return pad(x, (1, 1, 1, 1))[:, 1 + down : 1 + down + h, 1 + right : 1 + right + w]


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives along rows and columns; the edge pixel is repeated."""
    x = pad(x, (1, 1, 1, 1), mode="replicate")
    above, at, below = x[:, :-2], x[:, 1:-1], x[:, 2:]
    across = above + at * 2 + below
    rise = below - above
    down = rise[:, :, :-2] + rise[:, :, 1:-1] * 2 + rise[:, :, 2:]
    return down, across[:, :, 2:] - across[:, :, :-2]


def _crest(size: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Whether a pixel is at least as large as its two neighbours along the gradient.

    A neighbour lies between a pixel across an edge and one across a corner, and is interpolated.
    """
    steep = dy.abs() > dx.abs()
    weight = torch.where(steep, dx.abs() / dy.abs(), dy.abs() / dx.abs()).nan_to_num_(0.0)
    same = (dy >= 0) == (dx >= 0)
    crest = torch.ones_like(steep)
    for sign in (1, -1):
        corner = torch.where(same, _neighbour(size, sign, sign), _neighbour(size, sign, -sign))
        # With opposite signs the corner below left lies against the row above right.
        other = torch.where(same, corner, _neighbour(size, -sign, sign))
        straight = torch.where(steep, _neighbour(size, sign, 0), _neighbour(size, 0, sign))
        corner = torch.where(steep, corner, other)
        crest &= corner * weight + straight * (1 - weight) <= size
    return crest


def canny(x: Tensor, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Edges of (N, H, W) images in [0, 1]: smoothing, gradient, thinning, hysteresis.

    Args:
        x: images.
        sigma: width of the smoothing, which knows no pixels outside the image.
        low: edges are at least that steep,
        high: and joined to one of this steepness.

    Returns:
        Booleans (N, H, W); pixels at the border are never edges.
    """
    inside = smooth(torch.ones_like(x[:1, None]), sigma, "zero")[0]
    smoothed = smooth(x[:, None], sigma, "zero")[:, 0] / inside
    dy, dx = _sobel(smoothed)
    size = (dy * dy + dx * dx).sqrt_()
    body = torch.zeros_like(size)
    body[:, 1:-1, 1:-1] = 1
    crest = _crest(size, dy, dx) & (body > 0)
    return connected(crest & (size >= low), crest & (size >= high))
