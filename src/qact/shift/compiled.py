"""Random numbers and rounding in one pass each on a CPU, compiled by Numba.

The same integers and single IEEE operations as in `qact.shift.random`, without the copies between
them: the bits are the same. Needs the extra ``qact[cpu]``; without it torch does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

# No fastmath: sums and products stay as they are written.
_jit: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")
_inline: Callable[..., Any] = njit(nogil=True, inline="always", error_model="numpy")
_FIRST, _SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


@_inline
def _word(base: Any, first: Any, second: Any) -> Any:
    x = np.uint32(base + first)
    x = np.uint32((x ^ (x >> np.uint32(16))) * _FIRST)
    x = np.uint32(x ^ second)
    x = np.uint32((x ^ (x >> np.uint32(15))) * _SECOND)
    return np.uint32(x ^ (x >> np.uint32(16)))


@_jit
def _bits(base: Any, first: Any, second: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        for p in range(out.shape[1]):
            out[n, p] = _word(base[p], first[n], second[n])


@_jit
def _uniform(base: Any, first: Any, second: Any, scale: Any, low: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        for p in range(out.shape[1]):
            word = _word(base[p], first[n], second[n]) >> np.uint32(8)
            out[n, p] = np.float32(np.int32(word)) * np.float32(2.0**-24) * scale + low


@_jit
def _normal(base: Any, first: Any, second: Any, table: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        for p in range(out.shape[1]):
            word = _word(base[p], first[n], second[n])
            out[n, p] = table[word & np.uint32(0xFFFF)] + table[word >> np.uint32(16)]


@_jit
def _poisson(
    base: Any, first: Any, second: Any, level: Any, keep: Any, jump: Any, start: Any, out: Any
) -> None:
    width = keep.shape[1]
    bits = 0
    while (1 << bits) < width:
        bits += 1
    rest = np.uint32((1 << (32 - bits)) - 1)
    for n in range(out.shape[0]):
        for p in range(out.shape[1]):
            word = _word(base[p], first[n], second[n])
            row, cell = level[n, p], np.int64(word >> np.uint32(32 - bits))
            leave = np.int64(np.int32(word & rest) >= keep[row, cell])
            out[n, p] = np.float32(cell + jump[row, cell] * leave + start[row])


@_jit
def _impulse(base: Any, first: Any, second: Any, x: Any, amount: Any, half: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        for p in range(out.shape[1]):
            word = _word(base[p], first[n], second[n]) >> np.uint32(8)
            u = np.float32(np.int32(word)) * np.float32(2.0**-24)
            salt = np.float32(1) if u >= half else np.float32(0)
            out[n, p] = x[n, p] if u >= amount else salt


@_jit
def _rounded(x: Any, out: Any) -> None:
    for i in range(x.shape[0]):
        kept = min(max(x[i], np.float32(0)), np.float32(1))
        out[i] = np.rint(kept * np.float32(255)) / np.float32(255)


def _unsigned(x: Tensor) -> np.ndarray:
    return x.numpy().view(np.uint32)


def bits(base: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Words int32 (N, P) of the positions' (P,) and the streams' (N,) keys, all int32."""
    out = torch.empty(len(first), len(base), dtype=torch.int32)
    _bits(_unsigned(base), _unsigned(first), _unsigned(second), _unsigned(out))
    return out


def uniform(base: Tensor, first: Tensor, second: Tensor, low: float, high: float) -> Tensor:
    """The same words as float32 in [low, high)."""
    out = torch.empty(len(first), len(base))
    keys = _unsigned(base), _unsigned(first), _unsigned(second)
    _uniform(*keys, np.float32(high - low), np.float32(low), out.numpy())
    return out


def normal(base: Tensor, first: Tensor, second: Tensor, table: Tensor) -> Tensor:
    """The sum of two entries of ``table`` (65536,) that each word names."""
    out = torch.empty(len(first), len(base))
    _normal(_unsigned(base), _unsigned(first), _unsigned(second), table.numpy(), out.numpy())
    return out


def poisson(
    base: Tensor, first: Tensor, second: Tensor, level: Tensor, tables: tuple[Tensor, ...]
) -> Tensor:
    """Counts float32 (N, P) by the alias tables of each ``level`` int32 (N, P)."""
    out = torch.empty(level.shape)
    keys = _unsigned(base), _unsigned(first), _unsigned(second)
    _poisson(*keys, level.numpy(), *(table.numpy() for table in tables), out.numpy())
    return out


def impulse(base: Tensor, first: Tensor, second: Tensor, x: Tensor, amount: float) -> Tensor:
    """``x`` (N, P), each value 0 or 1 with probability ``amount / 2`` each."""
    out = torch.empty_like(x)
    keys = _unsigned(base), _unsigned(first), _unsigned(second)
    _impulse(*keys, x.numpy(), np.float32(amount), np.float32(amount / 2), out.numpy())
    return out


def rounded(x: Tensor, out: Tensor) -> None:
    """Write ``round(255 clip(x, 0, 1)) / 255`` into ``out``; float32, contiguous, of one shape."""
    _rounded(x.view(-1).numpy(), out.view(-1).numpy())
