"""A batch that is divided among processes becomes one context, and values their rank in it.

Forward: five numbers per channel agree on a grid, then the counts on it are added up. Backward: one
sum, of the gradients with respect to the context.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qact.first_order import applied
from qact.kernels import eager, engines
from qact.kernels.own_batch import no_jvp, once
from qact.kernels.steps import own_rank
from qact.nn.distributed.exchange import columns, summed
from qact.nn.distributed.statistics import slope, statistics
from qact.rank.grid import Grid
from qact.rank.histogram import Histogram
from qact.rank.levels import Level
from qact.rank.rule import Rule


@dataclass
class Exchange:
    """With whom to count, how, and the grid that was agreed on."""

    rule: Rule
    group: Any
    engine: str | None = None
    grid: Grid | None = field(default=None)


def joined(
    z: Tensor, level: Level, rule: Rule, group: Any, engine: str | None = None
) -> tuple[Tensor, Histogram]:
    """Return the activation of ``z`` (N, C, L) in the context of all processes, and the context."""
    wide = z if z.dtype == torch.float64 else z.float()
    context = observe(wide, Exchange(rule, group, engine))

    def exact(z: Tensor, rule: Rule) -> Tensor:
        return joint_rank(z, rule, group)

    options: dict[str, Any] = {"own": True, "engine": engine, "exact": exact}
    return eager.apply(wide, context, level, rule, **options).to(z.dtype), context


def observe(z: Tensor, exchange: Exchange) -> Histogram:
    """The context of all processes' ``z`` (N, C, L), differentiable as `eager.observe` is."""
    mass, moment, mean, std = applied(_Observe, no_jvp, z, exchange)
    assert exchange.grid is not None  # set by the line above
    return Histogram(mass, moment, exchange.grid, mean, std)


def joint_rank(z: Tensor, rule: Rule, group: Any) -> Tensor:
    """The step rank of each value among those of all processes, which are sent as they are."""
    values, first = columns(z.detach().transpose(0, 1).flatten(1), group)
    ranks = own_rank(values[None], rule)[0, :, first : first + z.shape[0] * z.shape[2]]
    return ranks.reshape(z.shape[1], z.shape[0], z.shape[2]).transpose(0, 1)


class _Observe(torch.autograd.Function):
    """Mass, moment, mean and spread in one operation, so that backward sends one message."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, exchange: Exchange) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        joint = statistics(z, exchange.group, exchange.engine)
        rule, group = exchange.rule, exchange.group
        mean, std, count = (t.to(z.dtype) for t in (joint.mean, joint.std, joint.count))
        grid = exchange.grid = eager.covering(joint.low, joint.high, mean, std, count, rule)
        # Counts, and places in 256ths, are whole numbers: their sums do not depend on the order.
        local = torch.stack([t.double() for t in engines.passes(exchange.engine, z).count(z, grid)])
        mass, moment = summed(local, group).to(z.dtype)
        ctx.exchange = exchange
        ctx.save_for_backward(z, mean, std, joint.count)
        ctx.mark_non_differentiable(mass)
        finite = torch.isfinite(joint.low) & torch.isfinite(joint.high)
        nothing = torch.where(finite, 0.0, torch.nan).to(z.dtype)
        return mass, moment, mean + nothing, std + nothing

    @staticmethod
    @once
    def backward(ctx: Any, _: Tensor, *grads: Tensor) -> tuple[Tensor, None]:
        z, mean, std, count = ctx.saved_tensors
        exchange = ctx.exchange
        moment, *rest = grads
        total = summed(torch.cat([moment, torch.stack(rest, 1)], 1), exchange.group)
        moment, grad_mean, grad_std = total[:, :-2].contiguous(), total[:, -2], total[:, -1]
        grad = slope(z, mean, std, count, grad_mean, grad_std)
        if z.numel():
            passes = engines.passes(exchange.engine, z)
            sided = exchange.rule.grounded == "sides"
            grad = grad + passes.slope(z, moment, exchange.grid, sided)
        return grad, None
