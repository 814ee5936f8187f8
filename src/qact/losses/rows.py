"""Losses of logits, row by row: each is written as its value and its gradient, side by side.

A loss of this kind is a sum over rows, so that the gradient of a row follows from that row alone.
Both are taken in the forward pass, some rows at a time: what lies between stays in the processor's
cache, and one array of the logits' size is kept, their gradient. (Autograd keeps three for torch's
cross-entropy.) The price: there is no second derivative, and asking for it is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qact import checks

# (z (n, C), target (n,) or (n, C)) -> (values (n,), gradients (n, C)), which it may overwrite later
Form = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
REDUCTIONS = ("mean", "sum", "none")
_CACHED = 2**17  # numbers at a time and thread, half a megabyte
_SHORT = 100  # columns
_WHOLE = 8  # so many parts are taken at once: copies cost more than the cache saves


def rowwise(
    form: Form,
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    soft: bool = False,
) -> Tensor:
    """Return a loss of logits from its values and gradients by row.

    Args:
        form: ``f(z, target)`` gives the values (n,) and their gradients (n, C) of some rows.
        logits: (N, C), floating; half precision is computed in float32.
        target: (N,) integer in 0..C-1; with ``soft`` also (N, C), weights of the classes.
        weight: (C,), of the classes. The mean is then the weighted one.
        ignore_index: rows with this target count for nothing. If all do, the loss is 0 with zero
            gradient (torch: NaN).
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one value per row.
        soft: whether ``form`` knows what to do with weights of the classes.

    Returns:
        float32 (float64 for float64): a scalar, or (N,). NaN where a row holds NaN.

    Raises:
        ValueError: shapes, targets or options are not as described.
        TypeError: logits are not floating or targets not integer.
    """
    checks.choice("reduction", reduction, REDUCTIONS)
    checks.integer("ignore_index", ignore_index)
    many, size = _checked(logits, target, soft), len(logits)
    rows = None if many else kept_rows(target, logits.shape[1], ignore_index)
    values: Tensor
    if rows is None:
        values = _Rows.apply(logits, target, form)
    else:
        logits, target = logits[rows], target[rows]
        values = _Rows.apply(logits, target, form) if len(rows) else logits.sum(1)
    scale = None if weight is None else _of_classes(weight, logits, target)
    total = values if scale is None else values * scale
    if reduction == "none":
        return total if rows is None else total.new_zeros(size).index_put((rows,), total)
    if reduction == "sum" or not len(total):
        return total.sum()
    return total.mean() if scale is None else total.sum() / scale.sum()


def softmax_at(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``softmax(z)``, (n, C), and its logarithm at the columns ``at``, (n, 1).

    ``log p_k = z_k - max z + log max p``: one exponential for both, and no digit is lost. In short
    rows the exponentials cost less than two searches for a maximum.
    """
    if z.shape[1] < _SHORT:
        log_p = z.log_softmax(1)
        own = log_p.gather(1, at)
        return log_p.exp_(), own
    p = z.softmax(1)
    top = p.amax(1, keepdim=True).log_() - z.amax(1, keepdim=True)
    return p, z.gather(1, at) + top


def kept_rows(
    target: Tensor, classes: int, ignore_index: int, name: str = "target"
) -> Tensor | None:
    """Return the rows that count, or None for all; refuse a target that is no class.

    Example:
        >>> kept_rows(torch.tensor([1, -100, 0]), 2, -100)
        tensor([0, 2])
        >>> kept_rows(torch.tensor([1, 2]), 2, -100)
        Traceback (most recent call last):
        ValueError: target must be 0..1, got 2 (rows to leave out have ignore_index=-100)
    """
    low, high = target.aminmax()
    if low >= 0 and high < classes and not 0 <= ignore_index < classes:
        return None
    rows = (target != ignore_index).nonzero()[:, 0]
    wrong = target[rows]
    wrong = wrong[(wrong < 0) | (wrong >= classes)]
    if len(wrong):
        raise ValueError(
            f"{name} must be 0..{classes - 1}, got {int(wrong[0])} "
            f"(rows to leave out have ignore_index={ignore_index})"
        )
    return rows


def _checked(logits: Tensor, target: Tensor, soft: bool) -> bool:
    """Refuse what are no logits and targets; say whether the targets are weights of classes."""
    checks.tensors(logits=logits, target=target)
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"logits must be (N, C) with N, C >= 1, got {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    if target.ndim == 2 and soft:
        if target.shape != logits.shape:
            raise ValueError(
                f"target must be ({len(logits)},) or {tuple(logits.shape)}, "
                f"got {tuple(target.shape)}"
            )
        return True
    if target.shape != logits.shape[:1]:
        raise ValueError(f"target must be ({len(logits)},), got {tuple(target.shape)}")
    if target.dtype != torch.int64:
        raise TypeError(f"target must be int64, got {target.dtype}; target.long() makes it so")
    return False


def _of_classes(weight: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Return the weight of the class of each row, in the loss's precision."""
    if target.ndim == 2:
        raise ValueError("weight goes with one class per row; multiply weights into a soft target")
    if weight.shape != logits.shape[1:]:
        raise ValueError(f"weight must be ({logits.shape[1]},), got {tuple(weight.shape)}")
    return weight.to(logits.device, _wide(logits.dtype))[target]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, form: Form) -> Tensor:
        values, gradient = _taken(form, logits, target)
        ctx.save_for_backward(logits, target)
        ctx.form, ctx.gradient = form, gradient
        return values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        with torch.no_grad():
            # Scaled where it lies and given away; a second walk through the graph takes it anew.
            gradient, ctx.gradient = ctx.gradient, None
            if gradient is None:
                gradient = _taken(ctx.form, logits, target)[1]
            gradient = gradient.mul_(upstream[:, None]).to(logits.dtype)
        if torch.is_grad_enabled():  # somebody may want to go on from here, and must be told
            gradient = _Last.apply(gradient, logits)
        return gradient, None, None


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, logits: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "this loss has no second derivative; qact.losses.cross_entropy and "
            "torch's own losses have one"
        )


def _taken(form: Form, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients of all rows, in float32 or float64, as many rows at a time as fit."""
    wide = _wide(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):
        n, classes = logits.shape
        step = max(1, _CACHED * torch.get_num_threads() // classes)
        if _WHOLE * step >= n or logits.device.type != "cpu":
            return form(logits.to(wide), target)
        values = torch.empty(n, dtype=wide)
        gradient = torch.empty(n, classes, dtype=wide)
        for first in range(0, n, step):
            some = slice(first, first + step)
            values[some], gradient[some] = form(logits[some].to(wide), target[some])
    return values, gradient
