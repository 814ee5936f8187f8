"""Losses of logits, row by row: each is written as its value and its gradient, side by side.

A loss of this kind is a sum over rows, so that the gradient of a row follows from that row alone.
Both are taken in the forward pass, some rows at a time: what lies between stays in the processor's
cache, and one array of the logits' size is kept, their gradient. (Autograd keeps three for torch's
cross-entropy.) The price: there is no second derivative, and asking for it is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qact import _compat, checks
from qact.first_order import refusing
from qact.vectors import exact

# (z (n, C), target (n,) or (n, C), shared...) -> (values (n,), gradients (n, C), slopes (n, K)...),
# which it may overwrite later. There is one slope for each shared parameter of K numbers.
Form = Callable[..., tuple[Tensor, ...]]
once = refusing(
    "this loss has no second derivative; qact.losses.cross_entropy and torch's own losses have one"
)
REDUCTIONS = ("mean", "sum", "none")
_CACHED = 2**17  # numbers at a time and thread, half a megabyte
_SHORT = 16  # columns
_WHOLE = 8  # so many parts are taken at once: copies cost more than the cache saves
_BLOCK = 128  # columns, from which on the place of the largest is looked for by arithmetic


def rowwise(
    form: Form,
    logits: Tensor,
    target: Tensor,
    *,
    shared: tuple[Tensor, ...] = (),
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    soft: bool = False,
) -> Tensor:
    """Return a loss of logits from its values and gradients by row.

    Args:
        form: ``f(z, target, *shared)`` gives the values (n,) and their gradients (n, C) of some
            rows, and the slopes (n, K) of the values by each of the shared parameters.
        logits: (N, C), floating; half precision is computed in float32.
        target: (N,) integer in 0..C-1; with ``soft`` also (N, C), weights of the classes.
        shared: parameters that all rows read, each of K numbers.
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
    some = selected(logits, target, weight, ignore_index, reduction, soft)
    if not some.logits.shape[0]:
        return some.reduced(some.logits.sum(1))
    # Reduced inside: a node of the graph less, and the gradient is scaled while it is in the cache.
    factor = None if reduction == "none" else some.factor()
    values: Tensor = _Rows.apply(form, some.logits, some.target, factor, *shared)
    return values if factor is not None else some.reduced(values)


class Selected(NamedTuple):
    """The rows that count, and how their values become the loss."""

    logits: Tensor
    target: Tensor
    rows: Tensor | None  # their places; None for all
    size: int  # of the batch
    scale: Tensor | None  # weights of the rows' classes
    reduction: str

    def factor(self) -> Tensor | float:
        """What each value is multiplied by before they are summed."""
        if self.reduction == "sum":
            return 1.0 if self.scale is None else self.scale
        return 1 / self.logits.shape[0] if self.scale is None else self.scale / self.scale.sum()

    def reduced(self, values: Tensor) -> Tensor:
        """The loss of the values (n,) of these rows."""
        if self.reduction == "none":
            return self.placed(values if self.scale is None else values * self.scale)
        return (values * self.factor()).sum() if len(values) else values.sum()

    def placed(self, values: Tensor) -> Tensor:
        """Values (n,) where their rows stand in the batch, 0 elsewhere."""
        if self.rows is None:
            return values
        return values.new_zeros(self.size).index_put((self.rows,), values)


def selected(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    soft: bool = False,
) -> Selected:
    """Return the rows that count, or say what is wrong; see :func:`rowwise`."""
    if _compat.transforming():
        raise RuntimeError(
            "this loss takes its gradient by itself, which torch.func cannot follow; "
            "qact.losses.cross_entropy and torch's own losses it can"
        )
    checks.choice("reduction", reduction, REDUCTIONS)
    checks.integer("ignore_index", ignore_index)
    many, size = _checked(logits, target, soft), len(logits)
    rows = None if many else kept_rows(target, logits.shape[1], ignore_index)
    if rows is not None:
        logits, target = logits[rows], target[rows]
    scale = None if weight is None else _of_classes(weight, logits, target)
    return Selected(logits, target, rows, size, scale, reduction)


def softmax_at(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``softmax(z)``, (n, C), and its logarithm at the columns ``at``, (n, K).

    ``log p_k = z_k - max z + log max p``: one exponential for both, and no digit is lost. Rows that
    are shorter than a vector of the processor are several times faster by the formula.
    """
    top = z.amax(1, keepdim=True)
    if z.shape[1] < _SHORT:
        p = z.sub(top)
        own = p.gather(1, at)
        total = p.exp_().sum(1, keepdim=True)
        return p.div_(total), own.sub_(total.log_())
    p = z.softmax(1)
    return p, z.gather(1, at).sub_(top).add_(p.amax(1, keepdim=True).log_())


def less_one(p: Tensor, at: Tensor) -> Tensor:
    """Take 1 from ``p`` (n, C) at the columns ``at``, (n, 1), in place: ``p - e_y``."""
    return p.scatter_add_(1, at, torch.full_like(at, -1, dtype=p.dtype))


def log_loss(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The form of ``-log p_y``."""
    at = y[:, None]
    p, t = softmax_at(z, at)
    return -t[:, 0], less_one(p, at)


def first_largest(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each row, (n, 1), and the first place where it stands.

    A processor finds a largest value ten times faster than its place, which numbers that are 0 but
    where it stands give too.

    Example:
        >>> first_largest(torch.tensor([[1.0, 3.0, 3.0]]))
        (tensor([[3.]]), tensor([[1]]))
    """
    if z.shape[1] < _BLOCK or z.shape[1] > 2**24 or z.device.type != "cpu":
        value, place = z.max(1, keepdim=True)
        return value, place
    value = z.amax(1, keepdim=True)
    return value, first_place(z, value)


def first_place(z: Tensor, value: Tensor) -> Tensor:
    """Return the first column of each row of ``z`` that equals its ``value`` (n, 1); else the last.

    Example:
        >>> first_place(torch.tensor([[1.0, 3.0, 3.0]]), torch.tensor([[3.0]]))
        tensor([[1]])
    """
    n = z.shape[1]
    left = torch.arange(n, 0, -1, dtype=z.dtype, device=z.device)
    at = torch.eq(z, value, out=torch.empty_like(z)).mul_(left).amax(1, keepdim=True)
    return (n - at).long().clamp_max_(n - 1)


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
    if low.item() >= 0 and high.item() < classes and not 0 <= ignore_index < classes:
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
    def forward(
        ctx: Any,
        form: Form,
        logits: Tensor,
        target: Tensor,
        factor: Tensor | float | None,
        *shared: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(logits, target, *shared)
        ctx.form, ctx.factor = form, factor
        values, ctx.gradients = _taken(form, logits, target, factor, shared)
        return values if factor is None else (values * factor).sum()

    @staticmethod
    @once
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        first, *others = _pulled(ctx, upstream)
        return None, first, None, None, *others


def _pulled(ctx: Any, upstream: Tensor) -> list[Tensor]:
    """The gradients of what :class:`_Rows` has returned, times ``upstream``."""
    logits, target, *shared = ctx.saved_tensors
    # Scaled where they lie and given away; a second walk through the graph takes them anew.
    gradients, ctx.gradients = ctx.gradients, None
    if ctx.factor is None and (shared or gradients is None):
        gradients = _taken(ctx.form, logits, target, upstream, shared)[1]
    elif ctx.factor is None:
        gradients[0].mul_(upstream[:, None])
    else:
        if gradients is None:
            gradients = _taken(ctx.form, logits, target, ctx.factor, shared)[1]
        if upstream.device.type != "cpu" or upstream.item() != 1:
            gradients = [g.mul_(upstream) for g in gradients]
    others = (g.to(t.dtype).view_as(t) for g, t in zip(gradients[1:], shared, strict=True))
    return [gradients[0].to(logits.dtype), *others]


def parts(logits: Tensor) -> list[slice]:
    """Rows at a time, as many as the cache holds; all, where copies cost more than it saves."""
    n, classes = logits.shape
    step = max(1, _CACHED * torch.get_num_threads() // classes)
    if _WHOLE * step >= n or logits.device.type != "cpu":
        return [slice(0, n)]
    return [slice(first, first + step) for first in range(0, n, step)]


def _taken(
    form: Form, logits: Tensor, target: Tensor, factor: Tensor | float | None, shared: Any
) -> tuple[Tensor, list[Tensor]]:
    """Values of all rows, and the gradients of their weighted sum, in float32 or float64."""
    wide, places = _wide(logits.dtype), parts(logits)
    shared = [t.to(wide) for t in shared]
    with exact(logits.device.type):
        if len(places) == 1:
            values, *gradients = form(logits.to(wide), target, *shared)
            return values, _weighted(gradients, factor)
        values = logits.new_empty(len(logits), dtype=wide)
        gradient, total = (
            torch.empty_like(logits, dtype=wide),
            [torch.zeros_like(t) for t in shared],
        )
        for some in places:
            by = factor[some] if isinstance(factor, Tensor) else factor
            values[some], *own = form(logits[some].to(wide), target[some], *shared)
            gradient[some], *slopes = _weighted(own, by)
            total = [t.add_(s.view_as(t)) for t, s in zip(total, slopes, strict=True)]
    return values, [gradient, *total]


def _weighted(gradients: list[Tensor], factor: Tensor | float | None) -> list[Tensor]:
    """The gradient (n, C) times its rows' factors, and the sums of the slopes times theirs."""
    if factor is not None:
        by = factor[:, None] if isinstance(factor, Tensor) else factor
        gradients = [g.mul_(by) for g in gradients]
    return [gradients[0], *(slope.sum(0) for slope in gradients[1:])]
