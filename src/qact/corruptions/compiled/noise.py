"""Noises of one image after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from qact.corruptions.alias import alias_tables
from qact.corruptions.compiled.jit import jit
from qact.corruptions.compiled.levels import flat, level, onto
from qact.corruptions.compiled.random import counts, normals, unsigned, words
from qact.corruptions.random import Draws, normal_table


@jit
def _gaussian(keys: Any, table: Any, x: Any, scale: Any, speckle: Any, out: Any) -> None:
    base, first, second = keys
    word, z = np.empty(len(base), np.uint32), np.empty(len(base), np.float32)
    for n in range(len(x)):
        words(base, first[n], second[n], word)
        normals(word, table, z)
        for p in range(len(z)):
            noise = z[p] * scale
            z[p] = (noise * x[n, p] if speckle else noise) + x[n, p]
        onto(z, out[n])


@jit
def _shot(keys: Any, cells: Any, start: Any, x: Any, rate: Any, out: Any) -> None:
    base, first, second = keys
    word, z = np.empty(len(base), np.uint32), np.empty(len(base), np.float32)
    row = np.empty(len(base), np.int32)
    for n in range(len(x)):
        words(base, first[n], second[n], word)
        for p in range(len(z)):
            row[p] = np.int32(level(x[n, p]))
        counts(word, row, cells, start, z)
        for p in range(len(z)):
            z[p] /= rate
        onto(z, out[n])


@jit
def _impulse(keys: Any, x: Any, amount: Any, half: Any, out: Any) -> None:
    base, first, second = keys
    word, z = np.empty(len(base), np.uint32), np.empty(len(base), np.float32)
    for n in range(len(x)):
        words(base, first[n], second[n], word)
        for p in range(len(z)):
            u = np.float32(np.int32(word[p] >> np.uint32(8))) * np.float32(2.0**-24)
            salt = np.float32(1) if u >= half else np.float32(0)
            z[p] = x[n, p] if u >= amount else salt
        onto(z, out[n])


def _normal(x: Tensor, scale: float, draws: Draws, speckle: bool, out: Tensor) -> None:
    keys, table = unsigned(*draws.keys(*x.shape[1:])), normal_table(x.device).numpy()
    source, to = flat(x, out)
    _gaussian(keys, table, source, np.float32(scale), speckle, to)


def gaussian_noise(x: Tensor, scale: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.noise.gaussian_noise`."""
    _normal(x, scale, draws, False, out)


def speckle_noise(x: Tensor, scale: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.noise.speckle_noise`."""
    _normal(x, scale, draws, True, out)


def shot_noise(x: Tensor, rate: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.noise.shot_noise`."""
    keys = unsigned(*draws.keys(*x.shape[1:]))
    tables = (table.numpy() for table in alias_tables(float(rate), x.device))
    source, to = flat(x, out)
    _shot(keys, *tables, source, np.float32(rate), to)


def impulse_noise(x: Tensor, amount: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.noise.impulse_noise`."""
    source, to = flat(x, out)
    keys = unsigned(*draws.keys(*x.shape[1:]))
    _impulse(keys, source, np.float32(amount), np.float32(amount / 2), to)
