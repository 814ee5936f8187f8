"""Contrast, brightness and saturation, one image after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from qact.corruptions.compiled.jit import jit
from qact.corruptions.compiled.levels import flat, level, rounded
from qact.corruptions.random import Draws

_ZERO, _ONE = np.float32(0), np.float32(1)


@jit
def _contrast(x: Any, factor: Any, out: Any) -> None:
    for m in range(len(x)):
        total = np.int64(0)  # of integers: the order does not matter
        for p in range(x.shape[1]):
            total += np.int64(np.int32(np.rint(x[m, p] * np.float32(2.0**20))))
        mean = np.float32(np.float64(total) / (x.shape[1] * 2.0**20))
        for p in range(x.shape[1]):
            out[m, p] = level((x[m, p] - mean) * factor + mean) / np.float32(255)


@jit
def _brightness(x: Any, amount: Any, out: Any) -> None:
    size = x.shape[2]
    value, brighter = np.empty(size, np.float32), np.empty(size, np.float32)
    for n in range(len(x)):
        value[:] = x[n, 0]
        for k in range(1, x.shape[1]):
            for p in range(size):
                value[p] = max(value[p], x[n, k, p])
        for p in range(size):
            brighter[p] = min(max(value[p] + amount, _ZERO), _ONE)
        for k in range(x.shape[1]):
            source, to = x[n, k], out[n, k]
            for p in range(size):
                some = value[p] > 0
                lit = source[p] / (value[p] if some else _ONE) * brighter[p]
                to[p] = level(lit if some else brighter[p]) / np.float32(255)


@jit
def _saturate(x: Any, factor: Any, offset: Any, out: Any) -> None:
    size = x.shape[2]
    value, spread = np.empty(size, np.float32), np.empty(size, np.float32)
    wanted = np.empty(size, np.float32)
    for n in range(len(x)):
        red, green, blue = x[n, 0], x[n, 1], x[n, 2]
        for p in range(size):
            value[p] = max(max(red[p], green[p]), blue[p])
            spread[p] = value[p] - min(min(red[p], green[p]), blue[p])
        for p in range(size):
            saturation = spread[p] / value[p] if value[p] > 0 else _ZERO
            wanted[p] = min(max(saturation * factor + offset, _ZERO), _ONE) * value[p]
        for k in range(3):
            source, to, reddish = x[n, k], out[n, k], _ONE if k > 0 else _ZERO
            for p in range(size):
                some = spread[p] > 0
                below = (value[p] - source[p]) / (spread[p] if some else _ONE)
                to[p] = level(value[p] - (below if some else reddish) * wanted[p]) / np.float32(255)


def contrast(x: Tensor, factor: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.digital.contrast`."""
    source, to = flat(x.flatten(0, 1), out.flatten(0, 1))
    _contrast(source, np.float32(factor), to)


def brightness(x: Tensor, amount: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.weather.brightness`."""
    _brightness(x.flatten(2).numpy(), np.float32(amount), out.flatten(2).numpy())


def saturate(x: Tensor, constant: tuple[float, float], draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.digital.saturate`."""
    if x.shape[1] == 1:
        rounded(x, out)
    else:
        factor, offset = (np.float32(c) for c in constant)
        _saturate(x.flatten(2).numpy(), factor, offset, out.flatten(2).numpy())
