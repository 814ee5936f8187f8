"""Counter-based random numbers: each image owns its stream, whatever batch it travels in.

A number depends on (seed, label, image index, draw, position) alone. There is no state to share, so
any split or permutation of a batch gives the same bits, and so do CPU and GPU: integers are hashed
with wrap-around, and what follows uses table look-ups and single IEEE operations, never a
transcendental function, whose last bit may depend on where an element lies in a SIMD register.
"""

import copy
import hashlib
import importlib
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.corruptions.alias import alias_tables

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
_MIX64 = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # the two multipliers of splitmix64
_MIX32 = (0x7FEB352D, -0x7B935975)  # the two multipliers of Wellons' "lowbias32"


def _signed(x: int) -> int:
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(x: Tensor, bits: int, width: int) -> Tensor:
    # torch shifts arithmetically: the copies of the sign bit have to go.
    return (x >> bits).bitwise_and_((1 << (width - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014): a bijection of int64, elementwise.

    Args:
        x: int64 tensor of any shape.

    Returns:
        int64 tensor of the same shape.

    Example:
        >>> mix64(torch.tensor([0, 1])).tolist()
        [0, 6238072747940578789]
    """
    x = (x ^ _shifted(x, 30, 64)).mul_(_MIX64[0])
    x ^= _shifted(x, 27, 64)
    x.mul_(_MIX64[1])
    return x.bitwise_xor_(_shifted(x, 31, 64))


def mix32(x: Tensor, key: Tensor | int = 0) -> Tensor:
    """Integer hash of 32 bits; ``key`` enters between its two multiplications.

    Args:
        x: int32 tensor.
        key: int32, broadcast against ``x``.

    Returns:
        int32 tensor; for each fixed key a bijection of ``x``.

    Example:
        >>> mix32(torch.tensor([0, 1], dtype=torch.int32)).tolist()
        [0, 1753845952]
    """
    x = (x ^ _shifted(x, 16, 32)).mul_(_MIX32[0])
    x ^= key
    x ^= _shifted(x, 15, 32)
    x.mul_(_MIX32[1])
    return x.bitwise_xor_(_shifted(x, 16, 32))


@lru_cache(maxsize=64)
def _positions(n: int, device: torch.device) -> Tensor:
    # Hashed once here, so that the counters of two images never run along each other.
    return mix32(torch.arange(1, n + 1, dtype=torch.int32, device=device))


@lru_cache(maxsize=8)
def normal_table(device: torch.device) -> Tensor:
    """Entries (65536,) of which two add up to a standard normal number."""
    middles = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    table = torch.special.ndtri(middles)
    # Two entries are added: halve the variance, and restore what the grid of middles takes away.
    return (table / (2 * table.square().mean()).sqrt()).float().to(device)


def label_key(label: str) -> int:
    """64 bits of a text, the same on every machine and in every process.

    Example:
        >>> label_key("fog/3") == label_key("fog/4")
        False
    """
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little", signed=True)


@lru_cache(maxsize=16)
def _compiled(room: str) -> Any:
    try:
        return importlib.import_module(f"qact.corruptions.compiled.{room}")
    except ImportError:  # no Numba
        return None


def on_cpu(x: Tensor, room: str) -> Any:
    """The compiled passes, where there are any and ``x`` lies on a CPU; else None."""
    return _compiled(room) if x.device.type == "cpu" else None


class Draws:
    """Random numbers of a batch of images, one stream per image.

    Each call is a new draw: the n-th call of a stream always gives the same numbers.

    Args:
        seed: any integer (its low 64 bits count).
        label: what the numbers are for, e.g. ``"fog/3"``.
        index: LongTensor of shape (N,), the global indices of the images.

    Example:
        >>> a = Draws(0, "doc", torch.tensor([5, 6])).uniform(3)
        >>> b = Draws(0, "doc", torch.tensor([6])).uniform(3)
        >>> torch.equal(a[1:], b)
        True
    """

    def __init__(self, seed: int, label: str, index: Tensor):
        salt = mix64(torch.tensor(_signed(checks.integer("seed", seed) + label_key(label))))
        self.key = mix64(mix64(index + _GOLDEN) ^ salt.to(index.device))
        self.calls = 0

    def parts(self, size: int) -> Iterator["Draws"]:
        """The same streams, ``size`` images at a time, for what would not fit in a cache."""
        for key in self.key.split(size):
            part = copy.copy(self)
            part.key = key
            yield part

    def bits(self, *shape: int) -> Tensor:
        """Uniform int32 words of shape (N, *shape)."""
        self.calls += 1
        key = mix64(self.key + _signed(self.calls * _GOLDEN))
        first, second = (key >> 32).int(), (key << 32 >> 32).int()
        base = _positions(prod(shape), self.key.device)
        return mix32(base + first[:, None], second[:, None]).view(-1, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform float32 in [low, high), shape (N, *shape): multiples of 2^-24, scaled."""
        x = _shifted(self.bits(*shape), 8, 32).float().mul_(2.0**-24)
        return x if (low, high) == (0.0, 1.0) else x.mul_(high - low).add_(low)

    def integers(self, count: int, *shape: int) -> Tensor:
        """Uniform int64 in {0, ..., count - 1}, shape (N, *shape); bias < count / 2^24."""
        return self.uniform(*shape).mul_(count).long().clamp_(max=count - 1)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32, shape (N, *shape).

        The sum of two entries of a table of 65536 normal quantiles: exact to the eye of any test
        of a few million samples, and limited to |z| <= 6.1.
        """
        table = normal_table(self.key.device)
        words = self.bits(*shape).flatten()
        low = table.index_select(0, words & 0xFFFF)
        high = table.index_select(0, _shifted(words, 16, 32))
        return low.add_(high).view(-1, *shape)

    def poisson(self, level: Tensor, rate: float) -> Tensor:
        """Poisson float32 with mean ``level / 255 * rate``.

        Args:
            level: integers 0..255 of shape (N, *shape).
            rate: the mean at level 255.

        Returns:
            Counts, shape (N, *shape), by the alias method (Walker 1977).
        """
        cells, start = alias_tables(float(rate), level.device)
        width = cells.shape[1]
        keep, jump = cells.view(-1, 2).unbind(1)
        words = self.bits(*level.shape[1:]).flatten()
        row = level.flatten().int()
        cell = row * width + _shifted(words, 33 - width.bit_length(), 32)
        rest = words.bitwise_and_((1 << (33 - width.bit_length())) - 1)
        leave = (rest >= keep.index_select(0, cell)).int()
        # Products choose faster than torch.where, whose branch a random mask defeats.
        count = (cell & (width - 1)).add_(jump.index_select(0, cell).mul_(leave))
        return count.add_(start.index_select(0, row)).float().view(level.shape)
