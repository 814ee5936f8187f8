"""Random numbers of `qact.corruptions.random`: an image's words first, then what they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit

_FIRST, _SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


@inline
def words(base: Any, first: Any, second: Any, out: Any) -> None:
    """The words of one stream; a loop of its own, so that it uses the width of the processor."""
    for p in range(len(base)):
        x = np.uint32(base[p] + first)
        x = np.uint32((x ^ (x >> np.uint32(16))) * _FIRST)
        x = np.uint32(x ^ second)
        x = np.uint32((x ^ (x >> np.uint32(15))) * _SECOND)
        out[p] = np.uint32(x ^ (x >> np.uint32(16)))


@inline
def normals(word: Any, table: Any, out: Any) -> None:
    """The sum of two entries of ``table`` (65536,) that each word names."""
    for p in range(len(word)):
        w = word[p]
        out[p] = table[w & np.uint32(0xFFFF)] + table[w >> np.uint32(16)]


@inline
def counts(word: Any, level: Any, cells: Any, start: Any, out: Any) -> None:
    """Counts by the alias table of each ``level``, see `qact.corruptions.alias`."""
    bits = 0
    while (1 << bits) < cells.shape[1]:
        bits += 1
    shift, rest = np.uint32(32 - bits), np.uint32((1 << (32 - bits)) - 1)
    for p in range(len(word)):
        row, cell = level[p], np.int64(word[p] >> shift)
        leave = np.int64(np.int32(word[p] & rest) >= cells[row, cell, 0])
        out[p] = np.float32(cell + cells[row, cell, 1] * leave + start[row])


@jit
def _bits(base: Any, first: Any, second: Any, out: Any) -> None:
    for n in range(len(first)):
        words(base, first[n], second[n], out[n])


@jit
def _uniform(base: Any, first: Any, second: Any, scale: Any, low: Any, out: Any) -> None:
    word = np.empty(len(base), np.uint32)
    for n in range(len(first)):
        words(base, first[n], second[n], word)
        for p in range(len(base)):
            top = np.float32(np.int32(word[p] >> np.uint32(8)))
            out[n, p] = top * np.float32(2.0**-24) * scale + low


@jit
def _normal(base: Any, first: Any, second: Any, table: Any, out: Any) -> None:
    word = np.empty(len(base), np.uint32)
    for n in range(len(first)):
        words(base, first[n], second[n], word)
        normals(word, table, out[n])


@jit
def _poisson(
    base: Any, first: Any, second: Any, level: Any, cells: Any, start: Any, out: Any
) -> None:
    word = np.empty(len(base), np.uint32)
    for n in range(len(first)):
        words(base, first[n], second[n], word)
        counts(word, level[n], cells, start, out[n])


@jit
def _keys(key: Any, step: Any, first: Any, second: Any) -> None:
    for n in range(len(key)):
        x = np.uint64(key[n] + step)
        x = np.uint64((x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
        x = np.uint64((x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
        x = np.uint64(x ^ (x >> np.uint64(31)))
        first[n], second[n] = np.uint32(x >> np.uint64(32)), np.uint32(x)


def keys(key: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """High and low half, int32, of the splitmix64 of ``key`` (N,) plus a signed ``step``."""
    first, second = torch.empty(2, len(key), dtype=torch.int32)
    _keys(key.numpy().view(np.uint64), np.uint64(step % (1 << 64)), *unsigned(first, second))
    return first, second


def unsigned(*keys: Tensor) -> tuple[np.ndarray, ...]:
    """The positions' and the streams' keys, int32, as unsigned arrays."""
    return tuple(key.numpy().view(np.uint32) for key in keys)


def bits(base: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Words int32 (N, P) of the positions' (P,) and the streams' (N,) keys, all int32."""
    out = torch.empty(len(first), len(base), dtype=torch.int32)
    _bits(*unsigned(base, first, second, out))
    return out


def uniform(base: Tensor, first: Tensor, second: Tensor, low: float, high: float) -> Tensor:
    """The same words as float32 in [low, high)."""
    out = torch.empty(len(first), len(base))
    _uniform(*unsigned(base, first, second), np.float32(high - low), np.float32(low), out.numpy())
    return out


def normal(base: Tensor, first: Tensor, second: Tensor, table: Tensor) -> Tensor:
    """The sum of two entries of ``table`` (65536,) that each word names."""
    out = torch.empty(len(first), len(base))
    _normal(*unsigned(base, first, second), table.numpy(), out.numpy())
    return out


def poisson(
    base: Tensor, first: Tensor, second: Tensor, level: Tensor, tables: tuple[Tensor, Tensor]
) -> Tensor:
    """Counts float32 (N, P) by the alias tables of each ``level`` int32 (N, P)."""
    out = torch.empty(level.shape)
    numbers = (t.numpy() for t in (level, *tables, out))
    _poisson(*unsigned(base, first, second), *numbers)
    return out
