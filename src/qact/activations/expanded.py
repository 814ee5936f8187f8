"""Self-gated functions whose gate may leave [0, 1]: xATLU, xGELU, xSiLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from qact import checks
from qact._compat import is_exporting
from qact.activations.recompute import with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell

Gate = Callable[[Tensor], Tensor]


def _normal(x: Tensor) -> Tensor:
    """``Phi(x)`` with the digits of its lower tail; compiled, ``erfc`` would not be a vector."""
    if torch.compiler.is_compiling() and not is_exporting():
        return torch.special.ndtr(x)
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _arctan(x: Tensor) -> Tensor:
    """``(arctan x + pi/2)/pi`` with the digits of its lower tail, which the sum would cancel."""
    return torch.atan2(torch.ones_like(x), -x) / math.pi


# Per name: the gate g from 0 to 1, and its derivative.
_GATES: dict[str, tuple[Gate, Gate]] = {
    "arctan": (
        _arctan,
        lambda x: 1 / (math.pi * (1 + x * x)),
    ),
    "normal": (
        _normal,
        lambda x: torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    ),
    "sigmoid": (torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)),
}


def expanded_gate(input: Tensor, alpha: Tensor, gate: str = "arctan") -> Tensor:
    """``x (g(x) (1 + 2 alpha) - alpha)`` (Huang 2024, arXiv 2405.20768).

    The gate ``g`` of range (0, 1) is stretched to ``(-alpha, 1 + alpha)``: ``"arctan"``,
    ``(arctan x + pi/2)/pi``, gives xATLU, ``"normal"`` xGELU and ``"sigmoid"`` xSiLU. At
    ``alpha = 0`` these are ATLU, GELU and SiLU.

    Example:
        >>> expanded_gate(torch.tensor([1.0]), torch.tensor([0.25]))
        tensor([0.8750])
    """
    checks.choice("gate", gate, tuple(_GATES))
    return with_partials(partial(_value, gate=gate), partial(_partials, gate=gate), input, alpha)


def _value(x: Tensor, alpha: Tensor, gate: str) -> Tensor:
    return x * (_GATES[gate][0](x) * (1 + 2 * alpha) - alpha)


def _partials(x: Tensor, alpha: Tensor, gate: str) -> tuple[Tensor, Tensor]:
    g, slope = (function(x) for function in _GATES[gate])
    stretch = 1 + 2 * alpha
    return g * stretch - alpha + x * slope * stretch, x * (2 * g - 1)


class _Expanded(Shell):
    gate = "arctan"

    def __init__(self, alpha: float = 0.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`expanded_gate`."""
        return expanded_gate(input, self.alpha, self.gate)


@register(
    "xatlu",
    paper="Huang 2024, arXiv 2405.20768",
    formula="x (g (1 + 2 alpha) - alpha), g = (arctan x + pi/2) / pi",
    parameters=("alpha",),
)
class XATLU(_Expanded):
    """:func:`expanded_gate` of the arctangent, with one trained ``alpha`` for the layer."""


@register(
    "xgelu",
    paper="Huang 2024, arXiv 2405.20768",
    formula="x (g (1 + 2 alpha) - alpha), g = Phi(x)",
    parameters=("alpha",),
)
class XGELU(_Expanded):
    """:func:`expanded_gate` of the normal distribution function, with a trained ``alpha``."""

    gate = "normal"


@register(
    "xsilu",
    paper="Huang 2024, arXiv 2405.20768",
    formula="x (g (1 + 2 alpha) - alpha), g = sigmoid(x)",
    parameters=("alpha",),
)
class XSiLU(_Expanded):
    """:func:`expanded_gate` of the logistic function, with a trained ``alpha``."""

    gate = "sigmoid"
