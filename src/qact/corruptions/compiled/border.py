"""Pixels around a plane: then its neighbourhoods need no rule at the edge."""

from __future__ import annotations

from typing import Any

from qact.corruptions.compiled.jit import inline

BLOCK = 2048  # values of a block of rows: it stays in the fastest cache


@inline
def bordered(x: Any, rows: Any, columns: Any, left: Any, out: Any) -> None:
    """Write the pixels at ``rows`` and ``columns``, which are those of ``x`` from ``left`` on."""
    pitch, w = len(columns), x.shape[1]
    for i in range(len(rows)):
        source, to = x[rows[i]], out[i * pitch : i * pitch + pitch]
        for j in range(left):
            to[j] = source[columns[j]]
        for j in range(left + w, pitch):
            to[j] = source[columns[j]]
        inner = to[left : left + w]
        for j in range(w):
            inner[j] = source[j]


@inline
def framed(x: Any, mirrored: Any, out: Any) -> None:
    """``x`` inside one more pixel on each side: the neighbour of the edge, or the edge itself."""
    h, w = x.shape
    row, column = (min(1, h - 1), min(1, w - 1)) if mirrored else (0, 0)
    for i in range(h):
        out[i + 1, 1 : w + 1] = x[i]
        out[i + 1, 0], out[i + 1, w + 1] = x[i, column], x[i, w - 1 - column]
    out[0], out[h + 1] = out[row + 1], out[h - row]
