"""Where a function of each value alone may turn or jump: between such points it grows or falls.

On an interval its least and largest values then stand at the ends or at a point inside. More points
than needed do no harm, since the function takes its values there too; one that is missing would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.activations import (
    bounded,
    expanded,
    mixed,
    parametric,
    piecewise,
    polynomial,
    rational,
    rectified,
    smooth,
    transport,
)
from qact.activations.batch import Dice
from qact.activations.shell import along

Point = Tensor | float
Points = Callable[[Any, Tensor], Iterable[Point]]

# f(x) = x times a gate that rises from 0 to 1 turns once. Roots of f' to 16 digits.
GELU, GELU_TANH, MISH = -0.7517915246935645, -0.7524614220710162, -1.1924312145154952
REACH = {"arctan": 1e6, "normal": 30.0, "sigmoid": 700.0}  # where a gate is 0 or 1 in float64
# Where the slope of x g(x) itself turns: x tanh(x/2) = 2, and x^2 = 2; of the arctangent it grows.
BENDS = {"arctan": (), "normal": (math.sqrt(2),), "sigmoid": (2.399357280515468,)}

GROWING = (
    *(nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.LogSigmoid),
    *(nn.Softsign, nn.Softshrink, nn.Tanhshrink, nn.Identity),
    *(rectified.HeLU, rectified.ClippedShiftedReLU, rectified.ClippedSoftThreshold),
    *(smooth.TemperedSigmoid, parametric.APA),
)
POINTS: dict[type[nn.Module], Points] = dict.fromkeys(GROWING, lambda module, z: ())
POINTS |= {
    # The slope left of zero may be negative.
    **dict.fromkeys((nn.LeakyReLU, nn.RReLU, nn.PReLU, nn.ELU, nn.CELU), lambda module, z: (0.0,)),
    nn.Threshold: lambda module, z: _around(module.threshold, z),
    nn.Hardshrink: lambda module, z: [*_around(module.lambd, z), *_around(-module.lambd, z)],
    nn.Softplus: lambda module, z: _around(module.threshold / module.beta, z),  # linear beyond it
    nn.Hardswish: lambda module, z: (-1.5,),
    nn.SiLU: lambda module, z: (-1.2784645427610738,),
    nn.GELU: lambda module, z: (GELU if module.approximate == "none" else GELU_TANH,),
    nn.Mish: lambda module, z: (MISH,),
    bounded.ClipAct: lambda module, z: (0.0, *_around(module.threshold, z)),
    smooth.GoLU: lambda module, z: (-0.5671432904097838,),
    parametric.Swish: lambda module, z: (_gated(module.beta, torch.ones_like(module.beta)),),
    parametric.AGLU: lambda module, z: (_gated(module.kappa, module.lambda_),),
}
CALLS: dict[Any, type[nn.Module]] = {
    **{torch.relu: nn.ReLU, torch.sigmoid: nn.Sigmoid, torch.tanh: nn.Tanh},
    **{"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh},
    **{F.relu: nn.ReLU, F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU},
    **{F.celu: nn.CELU, F.selu: nn.SELU, F.gelu: nn.GELU, F.silu: nn.SiLU, F.mish: nn.Mish},
    **{F.hardswish: nn.Hardswish, F.softplus: nn.Softplus, F.softsign: nn.Softsign},
    **{F.hardtanh: nn.Hardtanh, F.hardsigmoid: nn.Hardsigmoid, F.logsigmoid: nn.LogSigmoid},
}
"""Modules of the functions that a forward calls, and that a level of a QAct is."""


def turning(*classes: type[nn.Module]) -> Callable[[Points], Points]:
    """Enter a function ``(module, z) -> points`` for classes of modules; points broadcast with z.

    Example:
        >>> class Square(nn.Module):
        ...     def forward(self, x):
        ...         return x * x
        >>> @turning(Square)
        ... def _(module, z):
        ...     return [0.0]
        >>> from qact.activations.intervals import Box, interval
        >>> interval(Square(), Box(torch.tensor([-1.0]), torch.tensor([2.0])))
        Box(low=tensor([0.]), high=tensor([4.]))
    """

    def enter(points: Points) -> Points:
        POINTS.update(dict.fromkeys(classes, points))
        return points

    return enter


def _around(place: Any, z: Tensor) -> list[Tensor]:
    """A jump: the place, and what stands next to it in the precision of ``z``."""
    at = torch.as_tensor(place, dtype=z.dtype, device=z.device)
    far = torch.full_like(at, math.inf)
    return [torch.nextafter(at, -far), at, torch.nextafter(at, far)]


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().double() for t in tensors)


def _root(sign: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where ``sign`` changes between ``low`` and ``high``, by bisection; NaN where it does not."""
    low, high = torch.broadcast_tensors(low, high)
    below = sign(low) < 0
    there = below != (sign(high) < 0)
    for _ in range(80):
        middle = (low + high) / 2
        left = (sign(middle) < 0) == below
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return torch.where(there, high, torch.nan)


def _roots(sign: Callable[[Tensor], Tensor], marks: list[Tensor]) -> list[Tensor]:
    """All roots, where ``sign`` grows or falls between neighbours of ``marks``; and the marks."""
    return [*marks, *(_root(sign, a, b) for a, b in pairwise(marks))]


def _gated(kappa: Tensor, lambda_: Tensor) -> Tensor:
    """``x APA(x)`` turns at ``y = kappa x`` with ``y + lambda + e^y = 0``; SiLU at lambda = 1."""
    kappa, lambda_ = _wide(kappa, lambda_.clamp_min(parametric.LEAST))
    return _root(lambda y: y + lambda_ + y.exp(), -lambda_ - 1, -lambda_) / kappa


@turning(smooth.APTx)
def _aptx(module: Any, z: Tensor) -> list[Tensor]:
    def slope(y: Tensor) -> Tensor:  # alpha + tanh y + y / cosh^2 y, without cancellation
        rise = torch.sigmoid(2 * y)
        return module.alpha - 1 + 2 * rise + 4 * y * rise * torch.sigmoid(-2 * y)

    bend = 1.199678640257734  # y tanh y = 1
    marks = torch.tensor([-300.0, -bend, bend, 300.0], dtype=torch.float64)
    return [y / module.beta for y in _roots(slope, list(marks))] if module.beta else []


@turning(expanded.XATLU, expanded.XGELU, expanded.XSiLU)
def _expanded(module: Any, z: Tensor) -> list[Tensor]:
    (alpha,) = _wide(module.alpha)
    gate, density = expanded._GATES[module.gate]
    ends = [*BENDS[module.gate], REACH[module.gate]]
    marks = [torch.full_like(alpha, x) for x in (*(-e for e in reversed(ends)), *ends)]
    return _roots(lambda x: (1 + 2 * alpha) * (gate(x) + x * density(x)) - alpha, marks)


@turning(rectified.CRReLU)
def _crrelu(module: Any, z: Tensor) -> list[Tensor]:
    (epsilon,) = _wide(module.epsilon)
    marks = [torch.full_like(epsilon, x) for x in (0.0, math.sqrt(3), 30.0)]
    right = _roots(lambda x: 1 + epsilon * (1 - x * x) * torch.exp(-x * x / 2), marks)
    return [-torch.ones_like(epsilon), *right]


@turning(bounded.FitAct, bounded.ProAct)
def _fitact(module: Any, z: Tensor) -> list[Tensor]:
    k = module.steepness
    (end,) = _wide(k * along(module.bound, z, module.dim))
    root = _root(lambda y: y * torch.sigmoid(y - end) - 1, torch.zeros_like(end), end.clamp_min(2))
    return [torch.zeros_like(end), root / k]


@turning(piecewise.DiagonalTMAF)
def _tmaf(module: Any, z: Tensor) -> list[Point]:
    return [0.0, *(place for knot in module.knots for place in _around(knot, z))]


@turning(polynomial.PolyReLU)
def _polyrelu(module: Any, z: Tensor) -> list[float]:
    slope = np.polynomial.Polynomial(module.a.detach().double().cpu().numpy()).deriv()
    return [0.0, *(max(float(root.real), 0.0) for root in slope.roots())]


@turning(rational.PAU)
def _pau(module: Any, z: Tensor) -> list[float]:
    a, b = (t.detach().double().cpu().numpy() for t in (module.a, module.b))
    above, below = np.polynomial.Polynomial(a), np.polynomial.Polynomial([0.0, *b])
    kinds = [below]  # the denominator is 1 + |below|, which has a kink where that is zero
    for sign in (1, -1):
        kinds.append(above.deriv() * (1 + sign * below) - sign * above * below.deriv())
    # Real parts of all roots: what rounding has made of a double root is among them.
    return [float(root.real) for kind in kinds for root in kind.trim().roots()]


@turning(mixed.SmartMixed)
def _smartmixed(module: Any, z: Tensor) -> tuple[()]:
    if module.training and not module.frozen:
        raise NotImplementedError("SmartMixed draws its functions in training; use eval()")
    return ()  # each of the six grows


@turning(Dice)
def _dice(module: Any, z: Tensor) -> list[Tensor]:
    """``alpha + (1 - alpha) (s + (y + m) s (1 - s))`` is the slope at ``x = (y + m) std``."""
    if module.training:
        raise NotImplementedError("Dice reads its batch in training; use eval()")
    numbers = (module.alpha, module.running_mean, module.running_var)
    alpha, mean, var = _wide(*(along(t, z, module.dim) for t in numbers))
    std = torch.sqrt(var + module.eps)
    m = mean / std

    def slope(y: Tensor) -> Tensor:
        gate = torch.sigmoid(y)
        return alpha + (1 - alpha) * (gate + (y + m) * gate * torch.sigmoid(-y))

    def bend(y: Tensor) -> Tensor:  # the slope turns once on either side of 0 and -m
        return (y + m) * torch.tanh(y / 2) - 2

    left, right = torch.minimum(-m, 0 * m), torch.maximum(-m, 0 * m)
    marks = [_root(bend, left - 5, left), _root(bend, right, right + 5)]
    far = torch.full_like(m, 700.0)
    return [(y + m) * std for y in _roots(slope, [left - far, *marks, right + far])]


@turning(transport.Transported)
def _transported(module: Any, z: Tensor) -> tuple[()]:
    if module.training or module.map != "exact" or 0 <= module.strength <= 1:
        return ()
    raise NotImplementedError(
        f"no interval bounds of an exact transport of strength {module.strength}; 0 to 1 have them"
    )
