"""Ranks from a histogram: one pass to count, one small table, one pass to look up.

    histogram of z  ->  rank at the grid's edges  ->  level at the edges  ->  interpolate at z

Three operations touch the data: `_Statistics`, `_Count` and `_Lookup`. All between them works on
(channels, bins) tables and is differentiated by autograd. The gradient through `_Lookup` alone is
the paper's (``density``); what flows through the other two makes it the ``full`` one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import _compat
from qact._compat import replace
from qact.first_order import applied, one_by_one, refuse_forward_twice
from qact.kernels import engines
from qact.kernels import passes as plain
from qact.kernels.columns import REACH
from qact.kernels.own_batch import no_jvp, once
from qact.kernels.pieces import Pieces
from qact.kernels.steps import led, own_rank, stored_place, stored_table
from qact.kernels.tables import rank_table, ranked
from qact.rank import tails
from qact.rank.grid import Grid, spanning
from qact.rank.histogram import Histogram, padded, with_tails
from qact.rank.levels import Level, leveled
from qact.rank.rule import Rule

# Bins per bandwidth, and the bounds of the power of two that gives them to the widest channel.
FINENESS, FEWEST, MOST = 8, 256, 2048
# Values of a channel that must lie side by side, or are laid so.
RUN = 16
ROUNDED = ("moment", "mean", "std")


def observe(z: Tensor, rule: Rule, bins: int | None = None, engine: str | None = None) -> Histogram:
    """The context of a batch (N, C, L), differentiable once through moment, mean and std.

    A channel that holds something not finite has a mean and spread that are not numbers, and so
    have all ranks in it. ``engine`` is a word of `qact.kernels.engines`.
    """
    z = z if z.dtype == torch.float64 else z.float()
    low, high, mean, std = applied(_Statistics, no_jvp, z, engine)
    finite = torch.isfinite(low) & torch.isfinite(high)
    count = torch.full_like(std, float(z.shape[0] * z.shape[2]))
    grid = covering(low, high, mean.detach(), std.detach(), count, rule, bins)
    if bins is not None and _freak(low, high, std):
        far = engines.passes(engine, z).extremes(z.detach(), _kept(z))
        low, high = tails.extent(far, count)
        grid = spanning(low, high, bins, std.dtype)
    mass, moment = applied(_Count, no_jvp, z, grid, engine, rule.grounded == "sides")
    nothing = torch.where(finite, 0.0, torch.nan).to(mean.dtype)
    return Histogram(mass, moment, grid, mean + nothing, std + nothing)


def kept(z: Tensor, like: Histogram, engine: str | None = None) -> Histogram:
    """The context of a batch (N, C, L) with its tails known: to be added to others, exactly.

    All but the counts is rounded to the dtypes of ``like``, as a context of its own would be, so
    that adding and merging agree to the bit.
    """
    z = z.detach() if z.dtype == torch.float64 else z.detach().float()
    if z.shape[2] < RUN:  # three passes follow, which want a channel's values side by side
        z = z.transpose(0, 1).flatten(1)[None]
    passes = engines.passes(engine, z)
    far, mean, std = passes.described(z, _kept(z))
    count = torch.full_like(std, float(z.shape[0] * z.shape[2]))
    grid = spanning(*tails.extent(far, count), like.grid.bins, std.dtype)
    mass, moment = passes.count(z, grid)
    seen = with_tails(Histogram(mass, moment, grid, mean, std), far)
    rounded = {name: getattr(seen, name).to(getattr(like, name)) for name in ROUNDED}
    return replace(seen, **rounded)


def _kept(z: Tensor) -> int:
    """How many extremes are kept on either side."""
    return tails.width(z.shape[0] * z.shape[2]) // 2


def _freak(low: Tensor, high: Tensor, std: Tensor) -> bool:
    """Whether some value may stand so far out that a grid should leave it."""
    return not torch.compiler.is_compiling() and bool((high - low > REACH * std).any())


def covering(
    low: Tensor,
    high: Tensor,
    mean: Tensor,
    std: Tensor,
    count: Tensor,
    rule: Rule,
    bins: int | None = None,
) -> Grid:
    """The grid for values of this extent, mean, spread and number, each (C,)."""
    h = rule.bandwidth.width(std, count)
    # A histogram made to be kept has the bins it is given; one made to be read has a margin too.
    low, high = _extent(low, high, mean, std, 4 * h if bins is None else 0 * h)
    return spanning(low, high, bins or _enough(high - low, h), std.dtype)


def apply(
    z: Tensor,
    context: Histogram,
    level: Level,
    rule: Rule,
    *,
    own: bool = False,
    engine: str | None = None,
    known: Tensor | Pieces | None = None,
    exact: Callable[[Tensor, Rule], Tensor] = own_rank,
) -> Tensor:
    """The activation of ``z`` (N, C, L) in a context: level of rank, in the dtype of ``z``.

    ``own`` says that the context is that of ``z`` itself; step ranks are then ``exact``. What is
    ``known`` of the output, where a table is interpolated, is taken for it, or for the table's:
    the gradient is that of the table.
    """
    dtype = z.dtype
    z = z if dtype == torch.float64 else z.float()
    context = context.detach() if rule.gradient == "density" else context
    if rule.smooth and not own:  # the kernel reaches beyond the bins that are stored
        h = rule.bandwidth.width(context.std.detach(), context.count.detach())
        context = padded(context, 4 * h)
    elif not own:
        context = led(context)
    live, kinked = ranked(context, rule), rule.grounded == "continuous"
    knots = rank_table(context, rule)
    count = context.count.detach()[:, None]
    if rule.smooth and level.interpolable:
        sharp = level.activation is F.relu  # a table would smear its kink over a bin
        table = (level.linear() if sharp else level)(knots, count).to(z.dtype)
        if isinstance(known, Pieces):
            table, known = table + (known.into(table) - table).detach(), None
        known = None if known is None else known.to(table.dtype)
        value = _looked_up(z, table, live, context.grid, engine, kinked, known)
        return (F.relu(value) if sharp else value).to(dtype)
    rank = _looked_up(z, knots.to(z.dtype), live, context.grid, engine, kinked)
    if rule.smooth:
        return leveled(rank, level, count).to(dtype)
    if own:
        return leveled(rank + (exact(z, rule) - rank).detach(), level, count).to(dtype)
    ranks, place = stored_table(context.to(z.dtype).detach(), rule), stored_place(z, context)
    value = level(ranks, count).flatten()[place] + 0 * rank.detach()  # not a number: stays so
    if not torch.is_grad_enabled():
        return value.to(dtype)
    twin = leveled(rank + (ranks.flatten()[place] - rank).detach(), level, count)
    return (twin + (value - twin).detach()).to(dtype)


def density(z: Tensor, context: Histogram, rule: Rule) -> Tensor:
    """``f_h(z)`` for ``z`` (N, C, L): the slope of the rank table."""
    wide = z if z.dtype == torch.float64 else z.float()
    context = padded(context, 4 * rule.bandwidth.width(context.std, context.count))
    rise = rank_table(context, rule).diff(dim=1).to(wide.dtype)
    return _slope(wide, rise, context.grid, None, rule.grounded == "continuous").to(z.dtype)


def _extent(
    low: Tensor, high: Tensor, mean: Tensor, std: Tensor, margin: Tensor
) -> tuple[Tensor, Tensor]:
    """What the grid covers: the data, at most `REACH` deviations out, and a margin."""
    numbers = (low, high, mean, std, margin)
    low, high, mean, std, margin = (t.double().nan_to_num(0, 0, 0) for t in numbers)
    low = torch.maximum(low, mean - REACH * std) - margin
    return low, torch.minimum(high, mean + REACH * std) + margin


def _enough(span: Tensor, h: Tensor) -> int:
    """How many bins resolve the bandwidth in every channel, as a power of two."""
    if torch.compiler.is_compiling():
        return MOST // 2
    wanted = float((FINENESS * span / h).nan_to_num(FEWEST).amax())
    return min(max(1 << math.ceil(math.log2(max(wanted, 1))), FEWEST), MOST)


class _Statistics(torch.autograd.Function):
    """Extent, mean and standard deviation per channel; the last two are differentiable."""

    @staticmethod
    def forward(z: Tensor, engine: str | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return engines.passes(engine, z).statistics(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        low, high, mean, std = output
        ctx.mark_non_differentiable(low, high)
        ctx.save_for_backward(inputs[0], mean, std)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        z, mean, std = ctx.saved_tensors
        n = z.shape[0] * z.shape[2]
        _low, _high, grad_mean, grad_std = grads
        score = (z - mean[:, None]) * torch.where(std > 0, 1 / std, 0)[:, None]
        return torch.addcmul(grad_mean[:, None] / n, score, grad_std[:, None] / n), None


class _Count(torch.autograd.Function):
    """Mass and moment of every bin; a value's position moves its bin's moment.

    ``sided`` says that the weight of a value jumps at zero.
    """

    @staticmethod
    def forward(z: Tensor, grid: Grid, engine: str | None, sided: bool) -> tuple[Tensor, Tensor]:
        return engines.passes(engine, z).count(z, grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, ctx.grid, ctx.engine, ctx.sided = inputs
        ctx.save_for_backward(z)
        ctx.mark_non_differentiable(output[0])

    @staticmethod
    @once
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (z,) = ctx.saved_tensors
        passes = engines.passes(ctx.engine, z)
        return passes.slope(z, grad, ctx.grid, ctx.sided), None, None, None


def interpolate(z: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """Return what a table of edge values (C, bins + 1) says at ``z`` (outer, C, inner)."""
    live = torch.ones_like(table[:, 0], dtype=torch.bool)
    return _looked_up(z, table, live, grid, None, False)


def _looked_up(
    z: Tensor,
    table: Tensor,
    live: Tensor,
    grid: Grid,
    engine: str | None,
    kinked: bool,
    known: Tensor | None = None,
) -> Tensor:
    """What `_Lookup` says. Tensors go in one by one: a transform of torch unwraps no others."""
    scale = grid.exponent, grid.offset
    found: Tensor = applied(_Lookup, _moved, z, table, live, *scale, engine, kinked, known)
    return found


class _Lookup(torch.autograd.Function):
    """Linear interpolation in a table of edge values (C, bins + 1); differentiable twice.

    ``kinked`` says that the table's slope jumps at zero. Values that are ``known`` already, of a
    map near the table, are returned as they are.
    """

    @staticmethod
    def forward(
        z: Tensor,
        table: Tensor,
        live: Tensor,
        exponent: Tensor,
        offset: Tensor,
        engine: str | None,
        kinked: bool,
        known: Tensor | None,
    ) -> Tensor:
        if known is not None:
            return known
        grid = Grid(exponent, offset, table.shape[1] - 1)
        return engines.passes(engine, z).interpolate(z, table, grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.engine, ctx.kinked, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, table, live, exponent, offset = ctx.saved_tensors
        grid = Grid(exponent, offset, table.shape[1] - 1)
        grad_z = grad_table = None
        if ctx.needs_input_grad[0]:
            rise = table.diff(dim=1) * live[:, None]
            grad_z = grad * _slope(z, rise, grid, ctx.engine, ctx.kinked)
        if ctx.needs_input_grad[1]:
            grad_table = _spread(z, grad, grid, ctx.engine)
        return grad_z, grad_table, None, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        """A mapped dimension is more channels."""
        size, (*_, engine, kinked, _) = info.batch_size, args
        z, *columns, known = (
            t if t is None else t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((*args[:5], args[-1]), (*in_dims[:5], in_dims[-1]), strict=True)
        )
        wide, known = (None if t is None else t.movedim(0, 1).flatten(1, 2) for t in (z, known))
        columns = [t.flatten(0, 1) for t in columns]  # type: ignore[union-attr]
        output = applied(_Lookup, _moved, wide, *columns, engine, kinked, known)
        return output.unflatten(1, (size, -1)).movedim(1, 0), 0


def _moved(ctx: Any, dz: Tensor | None, dtable: Tensor | None, *_: Any) -> Tensor:
    """What `_Lookup` says moves by so much, if the values and the table do."""
    refuse_forward_twice()
    z, table, live, exponent, offset = ctx.saved_tensors
    grid, moved = Grid(exponent, offset, table.shape[1] - 1), torch.zeros_like(z)
    if dz is not None:
        rise = table.diff(dim=1) * live[:, None]
        moved = moved + dz * _slope(z, rise, grid, ctx.engine, ctx.kinked)
    return moved if dtable is None else moved + plain.interpolate(z, dtable, grid)


def _slope(z: Tensor, rise: Tensor, grid: Grid, engine: str | None, kinked: bool) -> Tensor:
    """The derivative at ``z``; if that is wanted, by operations which are themselves derived."""
    passes = plain if _twice(z, rise) else engines.passes(engine, z)
    return passes.slope(z, rise, grid, kinked)


def _spread(z: Tensor, grad: Tensor, grid: Grid, engine: str | None) -> Tensor:
    """The transpose of interpolation, likewise."""
    passes = plain if _twice(z, grad) else engines.passes(engine, z)
    return passes.transposed(z, grad, grid) if _twice(z, grad) else passes.spread(z, grad, grid)


def _twice(*tensors: Tensor) -> bool:
    """Whether a derivative is asked of what is about to be made."""
    if torch.compiler.is_compiling():  # a compiled backward pass is derived no further
        return False
    if _compat.watched():
        return True
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
