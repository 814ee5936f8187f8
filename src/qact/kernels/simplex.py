"""alpha-entmax of rows as operators of ``torch.library``, and the threshold that they look for.

qact::entmax            weights of rows            (differentiable)
qact::entmax_backward   its gradient, from the weights alone
qact::entmax_threshold  ``tau`` for any alpha that broadcasts against the rows

Under ``torch.func`` and in exported graphs :func:`plain` takes their place.

With ``x = (alpha - 1) (z - max z)`` and ``r = 1 / (alpha - 1)`` the weights are ``(x - tau)_+^r``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from qact.kernels import engines

STEPS = 64


def threshold(x: Tensor, alpha: float | Tensor, steps: int | None = None) -> Tensor:
    """``tau`` (..., 1) with ``sum (x - tau)_+^r = 1`` along the last dimension, ``max x = 0``.

    Newton steps on the norm ``(sum (x - t)_+^r)^(1/r)``, which is convex in ``t`` and nearly a
    line where it meets 1; they start at -1, on the left, and stay there for ``alpha <= 2``. Where
    one is not half as long as the last one, or leaves the bracket ``[-1, -n^(1 - alpha)]`` (that of
    AdaSplash, Gonçalves et al. 2025, arXiv 2502.12082), bisection takes its turn. ``steps`` is
    their number; None goes on until all rows stand still.
    """
    t = torch.full_like(x[..., :1], -1.0)
    low, high = t, -(torch.full_like(t, x.shape[-1]) ** (1 - alpha))
    last, tolerance = 2 - t * 0, 4 * torch.finfo(x.dtype).eps
    for _ in range(STEPS if steps is None else steps):
        total, slope = _sums((x - t).clamp_min(0), alpha)
        step = (total ** (alpha - 1) - 1) / (total ** (alpha - 2) * slope)
        over = total >= 1
        low, high = torch.where(over, t, low), torch.where(over, high, t)
        wild = (step.abs() > last.abs() / 2) | (t + step < low) | (t + step > high)
        new = torch.where(wild | step.isnan(), (low + high) / 2, t + step)
        last, t = new - t, new
        if steps is None and bool((last.abs() <= tolerance).all()):
            break
    return t


def _sums(gap: Tensor, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    """``sum gap^r`` and ``sum gap^(r - 1)`` over the gaps above 0."""
    if isinstance(alpha, float) and alpha == 2:
        return gap.sum(-1, keepdim=True), (gap > 0).sum(-1, keepdim=True).to(gap.dtype)
    if isinstance(alpha, float) and alpha == 1.5:
        return gap.square().sum(-1, keepdim=True), gap.sum(-1, keepdim=True)
    less = torch.where(gap > 0, gap ** (1 / (alpha - 1) - 1), 0)
    return (gap * less).sum(-1, keepdim=True), less.sum(-1, keepdim=True)


def sorted_threshold(x: Tensor, alpha: float) -> Tensor:
    """``tau`` in closed form from the sorted row, for ``alpha`` 2 and 1.5.

    Martins and Astudillo 2016, arXiv 1602.02068, alg. 1; Peters et al. 2019, arXiv 1905.05702,
    alg. 2. For ``k`` kept values of mean ``M`` and variance sum ``V``: ``M - 1/k``, and
    ``M - sqrt((1 - V)/k)``; the support is the largest ``k`` whose last value stands above.
    """
    ordered = x.clamp_min(-2.0).sort(-1, descending=True).values  # below -1 no value is kept
    k = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    mean = ordered.cumsum(-1) / k
    if alpha == 2:
        tau = mean - 1 / k
    else:
        spread = k * (ordered.square().cumsum(-1) / k - mean.square())
        tau = mean - ((1 - spread) / k).clamp_min(0).sqrt()
    kept = (tau <= ordered).to(torch.int64).sum(-1, keepdim=True).clamp_min(1)
    return tau.gather(-1, kept - 1)


def plain(z: Tensor, alpha: float) -> Tensor:
    """The weights in operations that every runtime has; no loop waits for the data."""
    if alpha in (1.5, 2.0):
        x = relative(z, alpha)
        return weights(x, sorted_threshold(x, alpha), alpha)
    return implicit(z, alpha, lambda x, alpha: threshold(x, alpha, 40))


def implicit(z: Tensor, alpha: float | Tensor, find: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """The weights as a function of ``z`` and ``alpha`` that autograd can follow.

    It sees one Newton step from the root, ``tau + (sum p(tau) - 1) / (-dsum/dtau)``: that moves
    nothing, and has the derivatives of the root that the equation ``sum p = 1`` defines.
    """
    alpha = torch.as_tensor(alpha, dtype=z.dtype, device=z.device)
    keep = z != -torch.inf
    top = _top(z)
    x = (alpha - 1) * (torch.where(keep, z, top) - top)
    x = x.masked_fill(~keep, -2.0)  # below every threshold
    root = find(x.detach(), alpha.detach())
    power, gap = 1 / (alpha - 1), x - root
    inside = keep & ~(gap <= 0)  # a row with NaN is NaN
    gap = torch.where(inside, gap, 1.0)  # a power of 0 has no derivative, and is not asked for one
    total = torch.where(inside, gap**power, 0.0).sum(-1, keepdim=True)
    slope = torch.where(inside, power * gap ** (power - 1), 0.0).sum(-1, keepdim=True).detach()
    moved = (total - total.detach()) / torch.where(slope > 0, slope, 1.0)
    return torch.where(inside, (gap - moved) ** power, 0.0)


def relative(z: Tensor, alpha: float | Tensor) -> Tensor:
    """``x = (alpha - 1) (z - max z)``; a row of ``-inf`` stays one."""
    return (alpha - 1) * (z - _top(z))


def _top(z: Tensor) -> Tensor:
    top = z.amax(-1, keepdim=True)
    return torch.where(top == -torch.inf, 0, top)


def weights(x: Tensor, tau: Tensor, alpha: float | Tensor) -> Tensor:
    """``(x - tau)_+^r``."""
    gap = (x - tau).clamp_min(0)
    if isinstance(alpha, float) and alpha in (1.5, 2.0):
        return gap if alpha == 2 else gap.square()
    return gap ** (1 / (alpha - 1))


def slope(p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """``dL/dz = s (g - sum g s / sum s)`` with ``s = p^(2 - alpha)`` on the support.

    Peters et al. 2019, arXiv 1905.05702.
    """
    s = torch.where(p > 0, p.masked_fill(p <= 0, 1) ** (2 - alpha), 0)
    total = s.sum(-1, keepdim=True)
    mean = (grad * s).sum(-1, keepdim=True) / torch.where(total > 0, total, 1)
    return s * (grad - mean)


def _compiled(z: Tensor, alpha: float) -> ModuleType | None:
    fits = alpha in (1.5, 2.0) and z.device.type == "cpu" and z.numel() > 0
    return import_module("qact.kernels.cpu.simplex") if fits and engines.fused(None, z) else None


@custom_op("qact::entmax", mutates_args=())
def entmax(z: Tensor, alpha: float) -> Tensor:
    """alpha-entmax along the last dimension of ``z``, float32 or float64."""
    kernel, z = _compiled(z, alpha), z.contiguous()
    if kernel is not None:
        return kernel.forward(z.view(-1, z.shape[-1]), alpha).view_as(z)
    x = relative(z, alpha)
    return weights(x, threshold(x, alpha), alpha)


@entmax.register_fake
def _(z: Tensor, alpha: float) -> Tensor:
    return z.new_empty(z.shape)


@custom_op("qact::entmax_backward", mutates_args=())
def entmax_backward(p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """See :func:`slope`."""
    kernel, n = _compiled(p, alpha), p.shape[-1]
    if kernel is None:
        return slope(p, grad, alpha)
    p, grad = p.contiguous(), grad.contiguous()
    return kernel.backward(p.view(-1, n), grad.view(-1, n), alpha).view_as(p)


@entmax_backward.register_fake
def _(p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    return p.new_empty(p.shape)


@custom_op("qact::entmax_threshold", mutates_args=())
def entmax_threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """:func:`threshold` for an ``alpha`` that broadcasts against (..., 1)."""
    return threshold(x, alpha)


@entmax_threshold.register_fake
def _(x: Tensor, alpha: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], 1))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.alpha = inputs[1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (p,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # asked for a gradient that can be differentiated again
        return slope(p, grad, ctx.alpha), None
    return torch.ops.qact.entmax_backward(p, grad, ctx.alpha), None


entmax.register_autograd(_backward, setup_context=_keep)
