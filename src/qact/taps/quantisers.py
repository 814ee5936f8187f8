"""Quantisers of activations: codes of a few bits, and the values that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qact import checks


@dataclass(frozen=True)
class Quantiser:
    """Codes ``0 .. 2**bits - 1`` of values; called, it gives back the values that they stand for.

    Its gradient is straight-through: that of the identity.
    """

    bits: int

    def __post_init__(self) -> None:
        checks.integer("bits", self.bits, 1)

    @property
    def most(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def codes(self, x: Tensor) -> Tensor:
        """Whole numbers in the dtype of ``x``."""
        raise NotImplementedError

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Quantise and back."""
        return x + (self.values(self.codes(x.detach())) - x).detach()


@dataclass(frozen=True)
class Uniform(Quantiser):
    """``q = clip(round(x / s) + z, 0, 2^b - 1)``, ``x = s (q - z)``; zero stands for itself.

    Args:
        low: least value, a number or one per channel (C,), with zero taken in.
        high: largest value.

    Example:
        >>> Uniform(2, -1.0, 2.0)(torch.tensor([-3.0, 0.0, 0.6, 1.4, 9.0]))
        tensor([-1.,  0.,  1.,  1.,  2.])
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0

    def _grid(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.as_tensor(self.low).to(like).clamp(max=0)
        high = torch.as_tensor(self.high).to(like).clamp(min=0)
        step = (high - low) / self.most
        step = torch.where(step > 0, step, torch.ones_like(step))
        return step, (-low / step).round()

    def codes(self, x: Tensor) -> Tensor:
        """Codes on the uniform grid."""
        step, zero = self._grid(x)
        return ((x / step).round() + zero).clamp(0, self.most)

    def values(self, codes: Tensor) -> Tensor:
        """Values on the uniform grid."""
        step, zero = self._grid(codes)
        return step * (codes - zero)


@dataclass(frozen=True)
class Log(Quantiser):
    """``q = clip(round(-log_base(x / scale)), 0, 2^b - 1)``, ``x = scale base^-q``, of ``x >= 0``.

    Base 2 is log2, the root of 2 is log-sqrt2 (RepQ-ViT, arXiv 2212.08254); others are the adaptive
    logarithm (AdaLog, arXiv 2407.12951). Zero has the largest code.

    Example:
        >>> log = Log(4, base=2**0.5)
        >>> log.codes(torch.tensor(0.3)), log(torch.tensor(0.3))
        (tensor(3.), tensor(0.3536))
    """

    base: float = 2.0
    scale: float = 1.0

    def codes(self, x: Tensor) -> Tensor:
        """Codes by the logarithm."""
        return (
            (-(x.clamp_min(0) / self.scale).log2() / math.log2(self.base))
            .round()
            .clamp(0, self.most)
        )

    def values(self, codes: Tensor) -> Tensor:
        """Powers of the base."""
        return self.scale * torch.exp2(-codes * math.log2(self.base))


@dataclass(frozen=True)
class ShiftLog(Quantiser):
    """``q = clip(round(-log2(x + shift) / s) + z, 0, 2^b - 1)``, ``x = 2^(-s (q - z)) - shift``.

    Shift-uniform-log2 of I&S-ViT (arXiv 2311.10126), for ``x`` in [0, ``high``]: the codes cover
    all of it.
    """

    shift: float = 2.0**-10
    high: float = 1.0

    def _grid(self) -> tuple[float, float]:
        ends = -math.log2(self.high + self.shift), -math.log2(self.shift)
        step = (ends[1] - ends[0]) / self.most
        return step, -ends[0] / step

    def codes(self, x: Tensor) -> Tensor:
        """Codes by the logarithm of what is shifted."""
        step, zero = self._grid()
        return (-(x.clamp_min(0) + self.shift).log2() / step + zero).round().clamp(0, self.most)

    def values(self, codes: Tensor) -> Tensor:
        """Back, and shifted back."""
        step, zero = self._grid()
        return torch.exp2(-step * (codes - zero)) - self.shift


def error(quantiser: Quantiser, x: Tensor, mass: Tensor | None = None) -> float:
    """Mean squared error of a quantiser on values, each counted ``mass`` times."""
    square = (quantiser.values(quantiser.codes(x)) - x).double().square()
    return float(square.mean() if mass is None else (square * mass).sum() / mass.sum())


def fit_log(x: Tensor, bits: int, mass: Tensor | None = None) -> Log:
    """Return base and scale of least error on values; base 2 and its root are among those tried."""
    bases = [2.0, 2**0.5, *(2 ** (k / 37) for k in range(4, 60, 2))]
    scales = [float(x.max()) * factor for factor in (1.0, 0.95, 0.9, 0.8, 0.7)]
    tried = [Log(bits, base, scale) for base in bases for scale in (1.0, *scales)]
    return min(tried, key=lambda quantiser: error(quantiser, x, mass))


def fit_shift(x: Tensor, bits: int, mass: Tensor | None = None) -> ShiftLog:
    """Return the shift of least error on values in [0, 1]."""
    start = ShiftLog(bits, high=max(float(x.max()), 1e-12))
    tried = [replace(start, shift=start.high * 2.0**-k) for k in range(1, 20)]
    return min(tried, key=lambda quantiser: error(quantiser, x, mass))
