"""Least squares of a layer's output onto another activation, over the layer's stored context.

A stored context is a weighted sample: the mass of each bin, at the mean of its values. So the fit
``min sum_b mass_b (layer(z_b) - f(z_b))^2`` reads no data again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qact.kernels import eager, reference
from qact.nn.layer import KNOTS, QAct
from qact.nn.normed import NormedQAct
from qact.rank import levels

STEPS = 40
RIDGE = 1e-3


@torch.no_grad()
def fit_(layer: QAct | NormedQAct, function: nn.Module) -> float:
    """Set the affine parameters, or the table, of ``layer``; return the share of variance fitted.

    ``function`` must be pointwise (or have parameters per channel). Of a :class:`NormedQAct` with
    a norm behind, that norm is fitted, in closed form; else ``weight`` and ``bias`` by
    Levenberg-Marquardt, per channel, from the fit of the score onto the input itself.
    """
    core = layer.quantile if isinstance(layer, NormedQAct) else layer
    sample = reference.recall(core.context.histogram)
    mass = sample.mass / sample.mass.sum(1, keepdim=True).clamp_min(1e-300)
    z = sample.values
    x = _undone(layer.norm_in, z) if isinstance(layer, NormedQAct) else z
    target = copy.deepcopy(function).double().eval()(x.T).T
    if core.table is not None:
        value = _table(core, z, target, mass)
    elif core.affine:
        value = _affine(core, z, target, mass)
    else:
        value = _output(core, z, core.level)
    if isinstance(layer, NormedQAct) and layer.norm_out is not None:
        value = _norm(layer.norm_out, value, target, mass)
    left = (mass * (value - target) ** 2).sum()
    spread = (mass * (target - _mean(target, mass)) ** 2).sum()
    return float(1 - left / spread.clamp_min(1e-300))


def _affine(core: QAct, z: Tensor, target: Tensor, mass: Tensor) -> Tensor:
    """Fit ``level(weight * score + bias)``, and return it."""
    score = _output(core, z, core._level.linear())
    activation = core._level.activation or (lambda v: v)
    slope, shift = _line(score, z, mass)
    if core._level.activation is None:
        slope, shift = _line(score, target, mass)
    slope, shift = _marquardt(activation, score, target, mass, slope, shift)
    assert core.weight is not None
    assert core.bias is not None
    core.weight.copy_(slope[:, 0])
    core.bias.copy_(shift[:, 0])
    return activation(slope * score + shift)


def _marquardt(
    activation: Callable[[Tensor], Tensor],
    score: Tensor,
    target: Tensor,
    mass: Tensor,
    slope: Tensor,
    shift: Tensor,
) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt in two parameters per channel, with a damping per channel."""
    damping = torch.full_like(slope, 1e-2)
    gap, rate = _value_and_slope(activation, slope * score + shift)
    gap = gap - target
    loss = (mass * gap**2).sum(1, keepdim=True)
    for _ in range(STEPS):
        a, b, c, p, q = (
            (mass * t).sum(1, keepdim=True)
            for t in (
                (rate * score) ** 2,
                rate**2 * score,
                rate**2,
                rate * score * gap,
                rate * gap,
            )
        )
        a, c = a * (1 + damping) + 1e-12, c * (1 + damping) + 1e-12
        det = a * c - b * b
        step = (c * p - b * q) / det, (a * q - b * p) / det
        tried = slope - step[0], shift - step[1]
        value, new_rate = _value_and_slope(activation, tried[0] * score + tried[1])
        new_gap = value - target
        new_loss = (mass * new_gap**2).sum(1, keepdim=True)
        better = new_loss < loss
        slope, shift = (
            torch.where(better, new, old) for new, old in zip(tried, (slope, shift), strict=True)
        )
        gap, rate = torch.where(better, new_gap, gap), torch.where(better, new_rate, rate)
        loss = torch.where(better, new_loss, loss)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-9, 1e9)
    return slope, shift


def _value_and_slope(activation: Callable[[Tensor], Tensor], v: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        value = activation(v)
        (rate,) = torch.autograd.grad(value.sum(), v)
    return value.detach(), rate


def _table(core: QAct, z: Tensor, target: Tensor, mass: Tensor) -> Tensor:
    """Fit the table's knots, drawn slightly to the function at the quantiles of the knots."""
    rank = _output(core, z, levels.parse("uniform")).clamp(0, 1)
    place = rank * (KNOTS - 1)
    basis = (
        1 - (place[..., None] - torch.arange(KNOTS, dtype=z.dtype, device=z.device)).abs()
    ).clamp_min(0)
    # A knot that no mass is near takes the value at the nearest rank.
    order = torch.linspace(0, 1, KNOTS, dtype=z.dtype, device=z.device)
    nearest = (rank[..., None] - order).abs().argmin(1)
    prior = target.gather(1, nearest)
    weighted = basis * mass[..., None]
    normal = weighted.mT @ basis
    ridge = RIDGE / KNOTS * torch.eye(KNOTS, dtype=z.dtype, device=z.device)
    right = weighted.mT @ target[..., None] + ridge @ prior[..., None]
    knots = torch.linalg.solve(normal + ridge, right)
    assert core.table is not None
    core.table.copy_(knots[..., 0])
    return (basis @ knots)[..., 0]


def _norm(norm: Any, value: Tensor, target: Tensor, mass: Tensor) -> Tensor:
    """Give a BatchNorm the statistics of ``value``, and the line from there to the target."""
    mean = _mean(value, mass)
    variance = (mass * (value - mean) ** 2).sum(1, keepdim=True)
    norm.running_mean.copy_(mean[:, 0])
    norm.running_var.copy_(variance[:, 0])
    normal = (value - mean) / (variance + norm.eps).sqrt()
    if not norm.affine:
        return normal
    slope, shift = _line(normal, target, mass)
    norm.weight.copy_(slope[:, 0])
    norm.bias.copy_(shift[:, 0])
    return slope * normal + shift


def _line(x: Tensor, y: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """The line of least squares from ``x`` to ``y``, per channel."""
    mean_x, mean_y = _mean(x, mass), _mean(y, mass)
    variance = (mass * (x - mean_x) ** 2).sum(1, keepdim=True)
    covariance = (mass * (x - mean_x) * (y - mean_y)).sum(1, keepdim=True)
    slope = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), 0.0)
    return slope, mean_y - slope * mean_x


def _mean(x: Tensor, mass: Tensor) -> Tensor:
    return (mass * x).sum(1, keepdim=True)


def _output(core: QAct, z: Tensor, level: levels.Level) -> Tensor:
    """The level of ``z`` (C, B) in the stored context."""
    return eager.apply(z[None], core.context.histogram, level, core.rule)[0]


def _undone(norm: Any, z: Tensor) -> Tensor:
    """What a fresh BatchNorm mapped to ``z``."""
    scale = (norm.running_var.double() + norm.eps).sqrt()[:, None]
    return z * scale + norm.running_mean.double()[:, None]
