"""Canny's edges (1986), see `qact.corruptions.spatter.canny`, of one plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from qact.corruptions.compiled.jit import inline


@inline
def gradient(frame: Any, dx: Any, dy: Any, size: Any) -> None:
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
def crests(size: Any, dx: Any, dy: Any, low: Any, high: Any, kind: Any) -> None:
    """Pixels above their two neighbours along the gradient: 1 from ``low`` on, 2 from ``high``.

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
def joined(kind: Any, h: Any, w: Any, stack: Any) -> None:
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
