"""Height maps of fog and ice, see `qact.corruptions.weather`, one image after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit
from qact.corruptions.compiled.levels import chunks, level
from qact.corruptions.random import Draws
from qact.corruptions.weather import side_of

_FOUR = np.float32(4)


@inline
def _refined(noise: Any, step: Any, size: Any, out: Any) -> None:
    """One halving of the step: the middles of squares, then of their sides."""
    side, half = len(out), step // 2
    last = side - step
    for i in range(0, side, step):
        row, below = out[i], out[i + step if i < last else 0]
        middle, rough = out[i + half], noise[i + half]
        for j in range(0, side, step):
            k = j + step if j < last else 0
            total = (row[j] + below[j]) + (row[k] + below[k])
            middle[j + half] = total / _FOUR + rough[j + half] * size
    for i in range(0, side, step):
        row, below = out[i], out[i + step if i < last else 0]
        middle, before = out[i + half], out[i - half if i > 0 else side - half]
        rough, rougher = noise[i], noise[i + half]
        for j in range(0, side, step):
            k, left = j + step if j < last else 0, j - half if j > 0 else side - half
            across = (middle[j + half] + before[j + half]) + (row[j] + row[k])
            upward = (middle[j + half] + middle[left]) + (row[j] + below[j])
            row[j + half] = across / _FOUR + rough[j + half] * size
            middle[j] = upward / _FOUR + rougher[j] * size


@inline
def _plasma(noise: Any, decay: Any, wibble: Any, out: Any) -> None:
    side = len(out)
    step = side
    out[0, 0] = 0
    while step >= 2:
        _refined(noise, step, np.float32(wibble * wibble), out)
        step, wibble = step // 2, wibble / decay
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for i in range(side):
        for j in range(side):
            low, high = min(low, out[i, j]), max(high, out[i, j])
    spread = max(high - low, np.float32(1e-12))
    for i in range(side):
        row = out[i]
        for j in range(side):
            row[j] = min(max((row[j] - low) / spread, np.float32(0)), np.float32(1))


@jit
def _plasmas(noise: Any, decay: Any, wibble: Any, out: Any) -> None:
    for n in range(len(noise)):
        _plasma(noise[n], decay, wibble, out[n])


@jit
def _fog(x: Any, noise: Any, amount: Any, decay: Any, out: Any) -> None:
    count, channels, h, w = x.shape
    haze = np.empty(noise.shape[1:], np.float32)
    for n in range(count):
        _plasma(noise[n], decay, 100.0, haze)
        top = x[n].max()
        share = top / (top + amount)
        for k in range(channels):
            for i in range(h):
                row, source, to = haze[i], x[n, k, i], out[n, k, i]
                for j in range(w):
                    to[j] = level((source[j] + row[j] * amount) * share) / np.float32(255)


def plasma(noise: Tensor, decay: float, wibble: float) -> Tensor:
    """See :func:`qact.corruptions.weather.plasma`; ``noise`` in [-1, 1), (N, side, side)."""
    out = torch.empty(noise.shape)
    _plasmas(noise.numpy(), float(decay), float(wibble), out.numpy())
    return out


def fog(x: Tensor, constant: tuple[float, float], draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.weather.fog`."""
    (amount, decay), side = constant, side_of(x)
    for images, part, to in chunks(x, draws, out):
        noise = part.uniform(side, side, low=-1.0, high=1.0).numpy()
        _fog(images.numpy(), noise, np.float32(amount), float(decay), to.numpy())
