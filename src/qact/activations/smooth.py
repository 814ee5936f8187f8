"""Fixed smooth functions that torch lacks: GoLU, APTx, tempered sigmoid."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from qact import checks
from qact.activations.recompute import with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell


def golu(input: Tensor) -> Tensor:
    """Gompertz linear unit: ``x exp(-exp(-x))`` (Das et al. 2025, arXiv 2502.03654).

    The gate is the distribution function of the standard Gumbel law. ``golu(0) = 0``, slope
    ``1/e`` there, minimum -0.0972601 at -0.5671433.

    Example:
        >>> golu(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.0660,  0.0000,  0.6922])
    """
    return with_partials(_golu, _golu_partials, input)


def _gompertz(x: Tensor) -> tuple[Tensor, Tensor]:
    # Below -10 the gate is 0 in any precision, and e^-x would overflow.
    decay = torch.exp(-x.clamp_min(-10.0))
    return torch.exp(-decay), decay


def _golu(x: Tensor) -> Tensor:
    return x * _gompertz(x)[0]


def _golu_partials(x: Tensor) -> tuple[Tensor]:
    gate, decay = _gompertz(x)
    return (gate * (1 + x * decay),)


@register("golu", paper="Das et al. 2025, arXiv 2502.03654", formula="x exp(-exp(-x))")
class GoLU(Shell):
    """Module of :func:`golu`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`golu`."""
        return golu(input)


def aptx(input: Tensor, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.5) -> Tensor:
    """APTx: ``(alpha + tanh(beta x)) gamma x`` (Kumar 2022, arXiv 2209.06119).

    The defaults are close to Mish, with minimum -0.1392323 at -0.6392323; ``(1, 1/2, 1/2)`` is
    SiLU.

    Example:
        >>> aptx(torch.tensor([1.0]))
        tensor([0.8808])
    """
    return with_partials(
        partial(_aptx, alpha=alpha, beta=beta, gamma=gamma),
        partial(_aptx_partials, alpha=alpha, beta=beta, gamma=gamma),
        input,
    )


def _tanh(u: Tensor) -> Tensor:
    # Six times as fast as the kernel of tanh on a CPU, and as exact in absolute terms.
    return 2 * torch.sigmoid(2 * u) - 1


def _aptx(x: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    return (alpha + _tanh(beta * x)) * (gamma * x)


def _aptx_partials(x: Tensor, alpha: float, beta: float, gamma: float) -> tuple[Tensor]:
    t = _tanh(beta * x)
    return (gamma * (alpha + t + beta * x * (1 - t * t)),)


@register("aptx", paper="Kumar 2022, arXiv 2209.06119", formula="(alpha + tanh(beta x)) gamma x")
class APTx(Shell):
    """Module of :func:`aptx`."""

    shown = ("alpha", "beta", "gamma")

    def __init__(
        self, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.5, inplace: bool = False
    ) -> None:
        super().__init__(inplace)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`aptx`."""
        return aptx(input, self.alpha, self.beta, self.gamma)


def tempered_sigmoid(
    input: Tensor, scale: float = 2.0, temperature: float = 2.0, offset: float = 1.0
) -> Tensor:
    """Tempered sigmoid ``s / (1 + exp(-T x)) - o`` (Papernot et al. 2020, arXiv 2007.14191).

    Bounded by ``(-o, s - o)``, steepest at zero with slope ``s T / 4``; the defaults are tanh.
    ``temperature`` is the paper's inverse temperature ``T``.

    Example:
        >>> tempered_sigmoid(torch.tensor([1.0]), 1.58, 3.0, 0.71)
        tensor([0.7951])
    """
    return with_partials(
        partial(_tempered, scale=scale, temperature=temperature, offset=offset),
        partial(_tempered_partials, scale=scale, temperature=temperature),
        input,
    )


def _tempered(x: Tensor, scale: float, temperature: float, offset: float) -> Tensor:
    # Of tanh, which is small where x is; the defaults have nothing beside it.
    return scale / 2 * torch.tanh(temperature / 2 * x) + (scale / 2 - offset)


def _tempered_partials(x: Tensor, scale: float, temperature: float) -> tuple[Tensor]:
    s = torch.sigmoid(temperature * x)
    return (scale * temperature * s * (1 - s),)


@register(
    "tempered_sigmoid",
    paper="Papernot et al. 2020, arXiv 2007.14191",
    formula="s / (1 + e^(-T x)) - o",
)
class TemperedSigmoid(Shell):
    """Module of :func:`tempered_sigmoid`."""

    shown = ("scale", "temperature", "offset")

    def __init__(
        self,
        scale: float = 2.0,
        temperature: float = 2.0,
        offset: float = 1.0,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        self.scale = checks.number("scale", scale, "a positive number", 0)
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)
        self.offset = offset

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`tempered_sigmoid`."""
        return tempered_sigmoid(input, self.scale, self.temperature, self.offset)
