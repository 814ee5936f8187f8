"""alpha-entmax of rows as operators of ``torch.library``, and the threshold that they look for.

qact::entmax           weights of rows (..., n); alpha broadcasts against (..., 1)  (differentiable)
qact::entmax_backward  its gradients, from the weights alone

Under ``torch.func`` and in exported graphs :func:`plain` takes their place.

With ``x = (alpha - 1) (z - max z)`` and ``r = 1 / (alpha - 1)`` the weights are ``(x - tau)_+^r``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from qact.first_order import one_by_one
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


def plain(z: Tensor, alpha: float | Tensor) -> Tensor:
    """The weights in operations that every runtime has; no loop waits for the data.

    Autograd sees one Newton step from the root, ``tau + (sum p(tau) - 1) / (-dsum/dtau)``: that
    moves nothing, and has the derivatives of the root that the equation ``sum p = 1`` defines.
    """
    if isinstance(alpha, float) and alpha in (1.5, 2.0):
        x = relative(z, alpha)
        return weights(x, sorted_threshold(x, alpha), alpha)
    alpha = torch.as_tensor(alpha, dtype=z.dtype, device=z.device)
    keep = z != -torch.inf
    top = _top(z)
    x = (alpha - 1) * (torch.where(keep, z, top) - top)
    x = x.masked_fill(~keep, -2.0)  # below every threshold
    root = threshold(x.detach(), alpha.detach(), 40)
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


def slope(p: Tensor, grad: Tensor, alpha: float | Tensor) -> Tensor:
    """``dL/dz = s (g - sum g s / sum s)`` with ``s = p^(2 - alpha)`` on the support.

    Peters et al. 2019, arXiv 1905.05702.
    """
    s, mean = _projected(p, grad, alpha)
    return s * (grad - mean)


def slope_of_alpha(p: Tensor, grad: Tensor, alpha: float | Tensor) -> Tensor:
    """``dL/dalpha = sum (g - sum g s / sum s) r p (r - ln p)`` of every row, (..., 1).

    Correia et al. 2019, arXiv 1909.00015, proposition 1.
    """
    r = 1 / (alpha - 1)
    inside = p > 0
    log = torch.where(inside, p, 1).log()
    mean = _projected(p, grad, alpha)[1]
    return ((grad - mean) * r * p * (r - log)).sum(-1, keepdim=True)


def _projected(p: Tensor, grad: Tensor, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    s = torch.where(p > 0, p.masked_fill(p <= 0, 1) ** (2 - alpha), 0)
    total = s.sum(-1, keepdim=True)
    return s, (grad * s).sum(-1, keepdim=True) / torch.where(total > 0, total, 1)


def _compiled(z: Tensor) -> ModuleType | None:
    fits = z.device.type == "cpu" and z.numel() > 0
    return import_module("qact.kernels.cpu.simplex") if fits and engines.fused(None, z) else None


def _of_rows(alpha: Tensor, z: Tensor) -> Tensor:
    """One of every row, or one of all."""
    if alpha.numel() > 1:
        alpha = alpha.expand(*z.shape[:-1], 1)
    return alpha.reshape(-1).float().contiguous()


def _known(alpha: Tensor) -> float | Tensor:
    """A number where it is one, and can be read without waiting for a device."""
    return alpha.item() if alpha.numel() == 1 and alpha.device.type == "cpu" else alpha


@custom_op("qact::entmax", mutates_args=())
def entmax(z: Tensor, alpha: Tensor) -> Tensor:
    """alpha-entmax along the last dimension of ``z``, float32 or float64."""
    kernel, z = _compiled(z), z.contiguous()
    if kernel is not None:
        return kernel.forward(z.view(-1, z.shape[-1]), _of_rows(alpha, z)).view_as(z)
    known = _known(alpha)
    x = relative(z, known)
    return weights(x, threshold(x, known), known)


@entmax.register_fake
def _(z: Tensor, alpha: Tensor) -> Tensor:
    return z.new_empty(z.shape)


@custom_op("qact::entmax_backward", mutates_args=())
def entmax_backward(p: Tensor, grad: Tensor, alpha: Tensor, learnt: bool) -> tuple[Tensor, Tensor]:
    """See :func:`slope` and :func:`slope_of_alpha`; the latter is empty if not ``learnt``."""
    kernel, n = _compiled(p), p.shape[-1]
    if kernel is None:
        return _gradients(p, grad, _known(alpha), learnt)
    p, grad = p.contiguous(), grad.contiguous()
    rows = kernel.backward(p.view(-1, n), grad.view(-1, n), _of_rows(alpha, p), learnt)
    return rows[0].view_as(p), rows[1].view((*p.shape[:-1], 1) if learnt else 0)


@entmax_backward.register_fake
def _(p: Tensor, grad: Tensor, alpha: Tensor, learnt: bool) -> tuple[Tensor, Tensor]:
    return p.new_empty(p.shape), p.new_empty((*p.shape[:-1], 1) if learnt else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


@one_by_one
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    (p, alpha), learnt = ctx.saved_tensors, ctx.needs_input_grad[1]
    again = torch.is_grad_enabled()  # asked for a gradient that can be differentiated again
    found = _gradients if again else torch.ops.qact.entmax_backward
    by_z, by_alpha = found(p, grad, alpha, learnt)
    return by_z, by_alpha.sum_to_size(alpha.shape) if learnt else None


def _gradients(
    p: Tensor, grad: Tensor, alpha: float | Tensor, learnt: bool
) -> tuple[Tensor, Tensor]:
    by_alpha = slope_of_alpha(p, grad, alpha) if learnt else p.new_empty(0)
    return slope(p, grad, alpha), by_alpha


entmax.register_autograd(_backward, setup_context=_keep)
