"""Pixels from other places: elastic transform and glass, one image after the other.

Products and sums of float32 in the order of the plain versions in `qact.corruptions.elastic`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit
from qact.corruptions.compiled.levels import chunks, flat, onto
from qact.corruptions.elastic import displacement, moved_points
from qact.corruptions.random import Draws

_FAR = np.float32(1e6)


@inline
def _inside(place: Any, size: Any, mirrored: Any) -> Any:
    """The border rules ``mirror`` and ``reflect`` of a whole float32 place."""
    if place >= 0 and place < size:
        return np.int64(place)
    period = np.float32(max(2 * size - 2, 1) if mirrored else 2 * size)
    place = place - np.floor(place / period) * period
    other = np.float32(2 * size - 2) - place if mirrored else np.float32(2 * size - 1) - place
    return np.int64(min(place, abs(other)))


@inline
def _sampled(x: Any, y: Any, z: Any, mirrored: Any, out: Any) -> None:
    """Bilinear samples of the planes (C, H W) of one image at rows ``y``, columns ``z`` (H, W)."""
    h, w = y.shape
    one = np.float32(1)
    for i in range(h):
        for j in range(w):
            top, left = np.floor(y[i, j]), np.floor(z[i, j])
            down, right = y[i, j] - top, z[i, j] - left
            r0, r1 = _inside(top, h, mirrored), _inside(top + one, h, mirrored)
            c0, c1 = _inside(left, w, mirrored), _inside(left + one, w, mirrored)
            up, near = one - down, one - right
            a, b, c, d = up * near, up * right, down * near, down * right
            # Unsigned: no place is held for one from the end.
            p, q = np.uint64(r0 * w + c0), np.uint64(r0 * w + c1)
            r, s = np.uint64(r1 * w + c0), np.uint64(r1 * w + c1)
            for k in range(len(x)):
                total = x[k, p] * a + x[k, q] * b
                out[k, i * w + j] = (total + x[k, r] * c) + x[k, s] * d


@jit
def _sample(x: Any, y: Any, z: Any, mirrored: Any, out: Any) -> None:
    for n in range(len(x)):
        _sampled(x[n], y[n], z[n], mirrored, out[n])


@inline
def _places(by_row: Any, by_column: Any, start: Any, middle: Any, out: Any) -> None:
    """Where an affine map reads one axis; whole sums in float64, as the plain version has them."""
    h, w = out.shape
    for i in range(h):
        down = np.float32(by_row * np.float64(i - h // 2) + start)
        for j in range(w):
            place = down + np.float32(by_column * np.float64(j - w // 2))
            out[i, j] = min(max(place, -_FAR), _FAR) + np.float32(middle)


@jit
def _elastic(
    x: Any, by_row: Any, by_column: Any, start: Any, field: Any, alpha: Any, out: Any
) -> None:
    count, channels, h, w = x.shape[0], x.shape[1], field.shape[2], field.shape[3]
    y, z = np.empty((h, w), np.float32), np.empty((h, w), np.float32)
    moved, sampled = (
        np.empty((channels, h * w), np.float32),
        np.empty((channels, h * w), np.float32),
    )
    for n in range(count):
        _places(by_row[n, 0], by_column[n, 0], start[n, 0], w // 2, z)
        _places(by_row[n, 1], by_column[n, 1], start[n, 1], h // 2, y)
        _sampled(x[n], y, z, True, moved)
        if alpha == 0:
            onto(moved.ravel(), out[n])
            continue
        for i in range(h):
            for j in range(w):
                y[i, j] = field[n, 0, i, j] * alpha + np.float32(i)
                z[i, j] = field[n, 1, i, j] * alpha + np.float32(j)
        _sampled(moved, y, z, False, sampled)
        onto(sampled.ravel(), out[n])


@jit
def _displaced(u: Any, delta: Any, w: Any, out: Any) -> None:
    count, _, size = u.shape
    h, most = size // w, 2 * delta - 1
    for n in range(count):
        for p in range(size):
            out[n, p] = p
        for row in range(min(h - delta, h - 1), delta, -1):
            for column in range(min(w - delta, w - 1), delta, -1):
                here = row * w + column
                dy = min(np.int64(u[n, 0, here] * np.float32(2 * delta)), most) - delta
                dx = min(np.int64(u[n, 1, here] * np.float32(2 * delta)), most) - delta
                out[n, here] = out[n, here + dy * w + dx]


def sample(x: Tensor, y: Tensor, z: Tensor, mirrored: bool) -> Tensor:
    """See :func:`qact.corruptions.elastic.sample`; all float32."""
    out = torch.empty(x.shape)
    arrays = (t.contiguous().numpy() for t in (x.flatten(2), y, z))
    _sample(*arrays, mirrored, out.flatten(2).numpy())
    return out


def elastic_transform(
    x: Tensor, constant: tuple[float, float, float], draws: Draws, out: Tensor
) -> None:
    """See :func:`qact.corruptions.elastic.elastic_transform`."""
    alpha, sigma, reach = constant
    h, w = x.shape[2:]
    maps = moved_points(h, w, reach, draws)
    for images, part, to, *parts in chunks(x, draws, out, *maps):
        field = displacement(h, w, sigma, part) if alpha else torch.empty(0, 2, h, w)
        arrays = (t.numpy() for t in (images.flatten(2), *parts, field))
        _elastic(*arrays, np.float32(alpha), *flat(to))


def displaced(u: Tensor, delta: int, w: int) -> Tensor:
    """See :func:`qact.corruptions.glass.displaced`; ``u`` are uniform numbers (N, 2, H W)."""
    out = torch.empty(len(u), u.shape[2], dtype=torch.int64)
    _displaced(u.numpy(), delta, w, out.numpy())
    return out
