"""Opacity of drops, see `qact.shift.spatter`: edges, distances, histogram, one plane after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.shift.compiled.jit import inline, jit
from qact.shift.compiled.levels import chunks, level
from qact.shift.random import Draws
from qact.shift.spatter import COLOURS, opacity
from qact.shift.weather import grey

_FAR = 20  # pixels
_FARTHEST = np.float32(_FAR * _FAR)


@inline
def _framed(x: Any, mirrored: Any, out: Any) -> None:
    """``x`` inside one more pixel on each side: the neighbour of the edge, or the edge itself."""
    h, w = x.shape
    row, column = (min(1, h - 1), min(1, w - 1)) if mirrored else (0, 0)
    for i in range(h):
        out[i + 1, 1 : w + 1] = x[i]
        out[i + 1, 0], out[i + 1, w + 1] = x[i, column], x[i, w - 1 - column]
    out[0], out[h + 1] = out[row + 1], out[h - row]


@inline
def _gradient(frame: Any, dx: Any, dy: Any, size: Any) -> None:
    """Sobel's derivatives and the sum of their magnitudes, which has a border of zeros."""
    h, w = dx.shape
    for i in range(h):
        above, at, below, to = frame[i], frame[i + 1], frame[i + 2], size[i + 1, 1:]
        for j in range(w):
            a, c, g, k = above[j], above[j + 2], below[j], below[j + 2]
            across = np.int32(c + 2 * at[j + 2] + k - a - 2 * at[j] - g)
            down = np.int32(g + 2 * below[j + 1] + k - a - 2 * above[j + 1] - c)
            dx[i, j], dy[i, j] = across, down
            to[j] = np.int32(abs(across) + abs(down))


@inline
def _crests(size: Any, dx: Any, dy: Any, low: Any, high: Any, kind: Any) -> None:
    """Pixels that exceed their two neighbours along the gradient: 1 above ``low``, 2 above ``high``.

    All directions are tried for all pixels, because no processor foresees which it will be.
    """
    w = dx.shape[1]
    for i in range(len(dx)):
        above, at, below, to = size[i], size[i + 1], size[i + 2], kind[i + 1, 1:]
        for j in range(w):
            here, across, down = at[j + 1], abs(dx[i, j]), abs(dy[i, j])
            # tan(22.5 degrees) and tan(67.5 degrees) in 15 fractional bits.
            flat = np.int32(down << 15) < np.int32(across * 13573)
            steep = np.int32(down << 15) > np.int32(across * (13573 + (2 << 15)))
            falling = (dx[i, j] ^ dy[i, j]) < 0
            crest = flat & (here > at[j]) & (here >= at[j + 2])
            crest |= steep & (here > above[j + 1]) & (here >= below[j + 1])
            oblique = (here > above[j]) & (here > below[j + 2])
            if falling:
                oblique = (here > above[j + 2]) & (here > below[j])
            crest |= (not (flat | steep)) & oblique
            to[j] = np.uint8(crest & (here > low)) + np.uint8(crest & (here > high))


@inline
def _joined(kind: Any, h: Any, w: Any, stack: Any) -> None:
    """Raise to 2 what is 1 and joined to a 2 by a path of such."""
    flat, count = kind.reshape(kind.size), 0
    for at in range(kind.size):
        stack[count] = at
        count += flat[at] == 2
    while count:
        count -= 1
        above = stack[count] - (w + 2)
        for row in range(above, above + 2 * (w + 2) + 1, w + 2):
            for at in range(row - 1, row + 2):
                if flat[at] == 1:
                    flat[at] = 2
                    stack[count] = at
                    count += 1


@inline
def _distance(kind: Any, square: Any, wide: Any, out: Any) -> None:
    """Euclidean distance to the nearest edge, at most 20: down the columns, then along the rows.

    ``wide`` is as long as a row and 20 more on each side.
    """
    h, w = out.shape
    last = np.full(w, np.float32(_FAR))
    for i in range(h):  # steps to the last edge above
        for j in range(w):
            step = min(last[j] + np.float32(1), np.float32(_FAR))
            last[j] = np.float32(0) if kind[i + 1, j + 1] == 2 else step
            square[i, j] = last[j]
    for i in range(h - 2, -1, -1):
        for j in range(w):
            square[i, j] = min(square[i, j], square[i + 1, j] + np.float32(1))
    wide[:] = _FARTHEST
    row = wide[_FAR : _FAR + w]
    for i in range(h):
        best, most, k = out[i], np.int32(0), 1
        for j in range(w):
            row[j] = square[i, j] * square[i, j]
            best[j] = row[j]
            most = max(most, np.int32(row[j]))
        while k * k < most and k < w:
            more, left, right = np.float32(k * k), wide[_FAR - k :], wide[_FAR + k :]
            for j in range(w):
                best[j] = min(best[j], min(left[j], right[j]) + more)
            k += 1
        for j in range(w):
            best[j] = np.sqrt(best[j])


@inline
def _box(frame: Any, out: Any) -> None:
    """Mean of 3 x 3 pixels, added row by row."""
    h, w = out.shape
    for i in range(h):
        a, b, c, to = frame[i], frame[i + 1], frame[i + 2], out[i]
        for j in range(w):
            total = ((a[j] + a[j + 1]) + a[j + 2]) + b[j]
            total = ((total + b[j + 1]) + b[j + 2]) + c[j]
            to[j] = ((total + c[j + 1]) + c[j + 2]) / np.float32(9)


@inline
def _equalised(x: Any, out: Any) -> None:
    """Histogram equalisation of whole distances."""
    count, table = np.zeros(_FAR + 1, np.int64), np.empty(_FAR + 1, np.float32)
    for value in x.flat:
        count[int(value)] += 1
    lowest = 0
    while count[lowest] == 0:
        lowest += 1
    rest = x.size - count[lowest]
    total, unit = -count[lowest], 1.0 / max(rest, 1) * 255.0
    for k in range(_FAR + 1):
        total += count[k]
        scaled = np.rint(max(total, 0) * unit)
        table[k] = np.float32(min(scaled, 255.0)) if rest > 0 else np.float32(k)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = table[int(x[i, j])]


@inline
def _sharpened(frame: Any, out: Any) -> None:
    """Differences towards the lower right, as whole levels."""
    h, w = out.shape
    for i in range(h):
        above, at, below, to = frame[i], frame[i + 1], frame[i + 2], out[i]
        for j in range(w):
            rise = at[j + 1] + at[j + 2] + below[j + 1] + 2 * below[j + 2]
            fall = 2 * above[j] + above[j + 1] + at[j]
            to[j] = min(max(rise - fall, np.float32(0)), np.float32(255))


@jit
def _water(liquid: Any, threshold: Any, out: Any) -> None:
    count, h, w = liquid.shape
    depth, whole = np.empty((h, w), np.float32), np.empty((h, w), np.int32)
    frame, edges = np.empty((h + 2, w + 2), np.float32), np.empty((h + 2, w + 2), np.int32)
    dx, dy = np.empty((h, w), np.int32), np.empty((h, w), np.int32)
    size, stack = np.zeros((h + 2, w + 2), np.int32), np.empty(edges.size + 1, np.int64)
    kind, wide = np.zeros((h + 2, w + 2), np.uint8), np.empty(w + 2 * _FAR, np.float32)
    a, b = np.empty((h, w), np.float32), np.empty((h, w), np.float32)
    for n in range(count):
        for i in range(h):
            for j in range(w):
                drop = liquid[n, i, j] if liquid[n, i, j] >= threshold else np.float32(0)
                value = np.floor(drop * np.float32(255))
                depth[i, j] = min(max(value, np.float32(0)), np.float32(255))
                whole[i, j] = np.int32(depth[i, j])
        _framed(whole, False, edges)
        _gradient(edges, dx, dy, size)
        _crests(size, dx, dy, 50, 150, kind)
        _joined(kind, h, w, stack)
        _distance(kind, a, wide, b)
        _framed(b, True, frame)
        _box(frame, a)
        for i in range(h):
            for j in range(w):
                a[i, j] = np.floor(a[i, j])
        _equalised(a, b)
        _framed(b, True, frame)
        _sharpened(frame, a)
        _framed(a, True, frame)
        _box(frame, b)
        most = np.float32(1)
        for i in range(h):
            for j in range(w):
                b[i, j] = depth[i, j] * np.rint(b[i, j])
                most = max(most, b[i, j])
        for i in range(h):
            for j in range(w):
                out[n, i, j] = b[i, j] / most


@jit
def _mixed(x: Any, thick: Any, strength: Any, colour: Any, mud: Any, out: Any) -> None:
    for n in range(len(x)):
        for k in range(x.shape[1]):
            for p in range(x.shape[2]):
                here, cover = x[n, k, p], thick[n, p]
                added = here + cover * strength * colour[k]
                covered = here * (np.float32(1) - cover) + colour[k] * cover
                out[n, k, p] = level(covered if mud else added) / np.float32(255)


def water(liquid: Tensor, threshold: float) -> Tensor:
    """Opacity of the drops of ``liquid`` (N, H, W) where it reaches ``threshold``."""
    out = torch.empty(liquid.shape)
    _water(liquid.contiguous().numpy(), np.float32(threshold), out.numpy())
    return out


def spatter(x: Tensor, constant: tuple[float, ...], draws: Draws, out: Tensor) -> None:
    """See :func:`qact.shift.spatter.spatter`."""
    strength, mud = constant[4:]
    colour = torch.tensor(COLOURS[bool(mud)]).view(1, 3, 1, 1)
    colour = (colour if x.shape[1] == 3 else grey(colour)).flatten().numpy()
    for images, part, to in chunks(x, draws, out):
        thick = opacity(constant, part, *x.shape[2:]).flatten(1)
        mixing = thick.numpy(), np.float32(strength), colour, bool(mud)
        _mixed(images.flatten(2).numpy(), *mixing, to.flatten(2).numpy())
