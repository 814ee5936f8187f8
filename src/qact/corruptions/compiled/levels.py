"""The grid of 8 bits: where values stand on it, and the rounding that ends every corruption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit
from qact.corruptions.random import Draws

_CHUNK = 1 << 17  # values of the images at a time, where a pass needs numbers per pixel beside them


@inline
def level(x: Any) -> Any:
    """``round(255 clip(x, 0, 1))`` of a float32."""
    return np.rint(min(max(x, np.float32(0)), np.float32(1)) * np.float32(255))


@inline
def onto(x: Any, out: Any) -> None:
    """Write the places on the grid over 255 into ``out``; both flat."""
    for i in range(len(out)):
        out[i] = level(x[i]) / np.float32(255)


@jit
def _rounded(x: Any, out: Any) -> None:
    onto(x, out)


def rounded(x: Tensor, out: Tensor) -> None:
    """Write ``round(255 clip(x, 0, 1)) / 255`` into ``out``; float32, contiguous, of one shape."""
    _rounded(x.view(-1).numpy(), out.view(-1).numpy())


def flat(*images: Tensor) -> tuple[np.ndarray, ...]:
    """Images as arrays (N, C H W)."""
    return tuple(x.flatten(1).numpy() for x in images)


def planes(*images: Tensor) -> tuple[np.ndarray, ...]:
    """Images as arrays (N C, H, W)."""
    return tuple(x.flatten(0, 1).numpy() for x in images)


def chunks(x: Tensor, draws: Draws, *more: Tensor) -> Iterator[tuple[Any, ...]]:
    """Images, their streams and what else there is of each, as many as a cache holds."""
    size = max(1, _CHUNK // x[0].numel())
    parts = (t.split(size) for t in more)
    return zip(x.split(size), draws.parts(size), *parts, strict=True)
