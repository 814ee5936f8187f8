"""Norm -> quantile -> norm as one differentiable operation.

Called directly, or through ``torch.ops.qact.block`` where a compiler or a function transform must
see it as one operator: the same kernels, the same numbers.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from qact import _compat
from qact.kernels import engines, library
from qact.kernels.following import Following, Norm
from qact.kernels.own_batch import no_jvp, once
from qact.kernels.plan import Plan
from qact.rank.layout import Channels

# Scale and shift of the norm before, of the score, and of the norm behind.
Affine = tuple[Tensor | None, ...]
# A context that follows the batch, and its momentum.
Running = tuple[Any, float | None]


def activation(
    channels: Channels,
    plan: Plan,
    affine: Affine,
    running: Running | None = None,
    norms: tuple[Norm | None, Norm | None] = (None, None),
) -> Tensor:
    """:func:`block` of an input, in the shape, memory order and dtype of that."""
    compiling = torch.compiler.is_compiling()
    if compiling and channels.dim == 1:
        return block(channels.input, plan, affine, running, norms)  # flattened in the operator
    # A view less for autograd to follow, where a kernel reads the input as it is.
    direct = not compiling and engines.any_shape(channels.input.device.type)
    z = channels.dense if direct else channels.z
    return channels.back(block(z, plan, affine, running, norms))


def block(
    z: Tensor,
    plan: Plan,
    affine: Affine,
    running: Running | None = None,
    norms: tuple[Norm | None, Norm | None] = (None, None),
) -> Tensor:
    """The output for ``z`` (N, C, L), or (N, C, ...) where the engine takes any shape; like it.

    Under a compiler any ``z`` (N, C, ...) will do.

    A ``running`` context, with its momentum, follows the batch, see :meth:`qact.Context.follow`,
    and with it the running statistics of the ``norms`` before and behind.

    Raises:
        UnusableError: where the device's engine does not work; nothing has been moved.
    """
    following = None
    if running is not None:
        context, momentum = running
        following = Following(context.tensors, context.batches, momentum, *norms)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (z, *affine))
    if torch.compiler.is_compiling():
        numbers = plan.arguments()
        out, state, _, _ = torch.ops.qact.block(z, *affine, numbers)
        if following is not None:
            rest = (*following.context, following.batches, momentum, numbers)
            torch.ops.qact.follow(z, affine[0], affine[1], state, *rest)
            with torch.no_grad():
                following.advance(state, z.numel() // z.shape[1])
        return out
    with nullcontext() if running is None else running[0].alone:
        return _compat.applied(_Block, z, plan, following, keep, *affine)[0]


class _Block(torch.autograd.Function):
    """Saves the input, and tables that are small beside it."""

    @staticmethod
    def forward(
        z: Tensor, plan: Plan, following: Following | None, keep: bool, *affine: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        run: Any = engines.block(z.device.type)
        if hasattr(run, "try_once"):
            run.try_once(z, plan, affine, following)
        return run.forward(z.contiguous(), plan, affine, following, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, ctx.plan, _, _, *affine = inputs
        ctx.save_for_backward(z, *affine, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 10
        z, *rest = ctx.saved_tensors
        affine, saved = rest[:6], rest[6:]
        if _compat.transforming():
            given = z, grad, *affine, *saved, ctx.plan.numbers()
            dz, grads = torch.ops.qact.block_backward(*given)
        else:
            dz, grads = library.gradients(z, grad, ctx.plan, affine, saved)
        pairs = zip(affine, grads, ctx.needs_input_grad[4:], strict=True)
        columns = (g.to(a.dtype) if need else None for a, g, need in pairs)
        return dz, None, None, None, *columns

    jvp = staticmethod(no_jvp)

    @staticmethod
    def vmap(info: Any, in_dims: Any, z: Tensor, plan: Plan, following: Any, *rest: Any) -> Any:
        if following is not None:
            raise RuntimeError(
                "under vmap every slice is a context of its own, and no running context can follow "
                "them; use qact.functional.quantile_activation, or the layer in eval()"
            )
        keep, *affine = rest
        dims = (in_dims[0], *in_dims[4:])

        def apply(z: Tensor, *affine: Tensor | None) -> tuple[Tensor, ...]:
            return _Block.apply(z, plan, None, keep, *affine)

        return library.over_slices(apply, info.batch_size, dims, z, *affine)
