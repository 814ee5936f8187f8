"""The fused block as operators of ``torch.library``: for compilers and function transforms.

qact::block           output, state, tables, codes         (differentiable, vmap)
qact::block_backward  gradients of input and affines
qact::follow          moves a running context in place
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from qact import extras
from qact.first_order import one_by_one
from qact.kernels import engines
from qact.kernels.columns import STATE
from qact.kernels.following import Following
from qact.kernels.plan import Plan, code_columns, table_columns
from qact.rank.layout import channels_last, fold, fold_like, unfold


def gradients(
    z: Tensor,
    grad: Tensor,
    plan: Plan,
    affine: Sequence[Tensor | None],
    saved: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """``dL/dz``, like ``z``, and (6, C) for the affines."""
    return _engine(z).backward(z.contiguous(), grad.contiguous(), plan, affine, *saved)


# A compiler that does not know the sizes of a flattened view cannot order its strides (PyTorch
# issue 185510), so operators take (N, C, ...) in any memory and flatten it themselves.


def _like(z: Tensor) -> Tensor:
    """What `unfold` returns for a folded ``z``: contiguous, or channels last as ``z`` is."""
    if z.is_contiguous() or not channels_last(z, 1):
        return z.new_empty(z.shape)
    return z.new_empty(z.movedim(1, -1).shape).movedim(-1, 1)


@custom_op("qact::block", mutates_args=())
def block(
    z: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output like ``z`` (N, C, ...), state (C, 12), tables and codes; see `qact.kernels.plan`."""
    affine = (in_weight, in_bias, weight, bias, out_weight, out_bias)
    folded = fold(z, 1).contiguous()
    out, *saved = _engine(z).forward(folded, Plan.of(numbers), affine)
    return unfold(out, z, 1), *saved


@block.register_fake
def _(z, in_weight, in_bias, weight, bias, out_weight, out_bias, numbers):  # type: ignore[no-untyped-def]
    # Size.numel() would make a constant of a dynamic size.
    plan, channels, n = Plan.of(numbers), z.shape[1], z.shape[0] * math.prod(z.shape[2:])
    return (
        _like(z),
        z.new_empty(channels, STATE, dtype=torch.float64),
        z.new_empty(channels, table_columns(n, plan), dtype=torch.float32),
        z.new_empty(channels, code_columns(n, plan), dtype=torch.uint8),
    )


@custom_op("qact::block_backward", mutates_args=())
def block_backward(
    z: Tensor,
    grad: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    state: Tensor,
    tables: Tensor,
    codes: Tensor,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """``dL/dz``, and (6, C) for the affines."""
    affine = (in_weight, in_bias, weight, bias, out_weight, out_bias)
    values, slopes = fold(z, 1), fold_like(grad, z, 1)
    dz, grads = gradients(values, slopes, Plan.of(numbers), affine, (state, tables, codes))
    return unfold(dz, z, 1), grads


@block_backward.register_fake
def _(z, grad, a, b, c, d, e, f, state, tables, codes, numbers):  # type: ignore[no-untyped-def]
    return _like(z), z.new_empty(6, z.shape[1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, *affine, numbers = inputs
    ctx.save_for_backward(z, *affine, *output[1:])
    ctx.numbers = numbers
    ctx.mark_non_differentiable(*output[1:])


@one_by_one
def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    z, *rest = ctx.saved_tensors
    affine, saved = rest[:6], rest[6:]
    dz, grads = torch.ops.qact.block_backward(z, grad, *affine, *saved, ctx.numbers)
    affines = (None if a is None else g.to(a.dtype) for a, g in zip(affine, grads, strict=True))
    return dz, *affines, None


block.register_autograd(_backward, setup_context=_keep)


@custom_op("qact::follow", mutates_args=("mass", "moment", "mean", "std", "exponent", "offset"))
def follow(
    z: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    state: Tensor,
    mass: Tensor,
    moment: Tensor,
    mean: Tensor,
    std: Tensor,
    exponent: Tensor,
    offset: Tensor,
    batches: Tensor,
    momentum: float | None,
    numbers: Sequence[float],
) -> None:
    """Move a running context towards the batch ``z`` that ``state`` describes."""
    buffers = (mass, moment, mean, std, exponent, offset)
    following = Following(buffers, batches, momentum)
    z = fold(z, 1).contiguous()
    _engine(z).follow(z, Plan.of(numbers), (in_weight, in_bias), state, following)


@follow.register_fake
def _(z, in_weight, in_bias, state, *rest):  # type: ignore[no-untyped-def]
    return None


def over_slices(
    function: Callable[..., tuple[Tensor, ...]],
    size: int,
    in_dims: Sequence[int | None],
    z: Tensor,
    *affine: Tensor | None,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """A mapped dimension is more channels: every slice is a context of its own."""
    z = _mapped(z, in_dims[0], size).movedim(0, 1)
    outer, _, channels, *inner = z.shape
    wide = [
        None if t is None else _mapped(t, d, size).flatten()
        for t, d in zip(affine, in_dims[1:], strict=True)
    ]
    out, *saved = function(z.reshape(outer, size * channels, *inner), *wide)
    outs = [t.reshape(size, channels, *t.shape[1:]) for t in saved]
    return (out.reshape(outer, size, channels, *inner).movedim(1, 0), *outs), (0, 0, 0, 0)


@block.register_vmap
def _(info, in_dims, z, *rest):  # type: ignore[no-untyped-def]
    *affine, numbers = rest

    def apply(z: Tensor, *affine: Tensor | None) -> tuple[Tensor, ...]:
        return block(z, *affine, numbers)

    return over_slices(apply, info.batch_size, in_dims[:7], z, *affine)


@block_backward.register_vmap
def _(info, in_dims, z, grad, *rest):  # type: ignore[no-untyped-def]
    *tensors, numbers = rest
    size = info.batch_size
    z, grad = (
        _mapped(t, d, size).movedim(0, 1) for t, d in zip((z, grad), in_dims[:2], strict=True)
    )
    outer, _, channels, *inner = z.shape
    z, grad = (t.reshape(outer, size * channels, *inner) for t in (z, grad))
    wide = [
        None if t is None else _mapped(t, d, size).flatten(0, 1)
        for t, d in zip(tensors, in_dims[2:11], strict=True)
    ]
    dz, grads = block_backward(z, grad, *wide, numbers)
    grads = grads.reshape(6, size, channels).movedim(1, 0)
    return (dz.reshape(outer, size, channels, *inner).movedim(1, 0), grads), (0, 0)


def _mapped(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped dimension in front; a tensor that is not mapped is repeated."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)


def _engine(z: Tensor) -> ModuleType:
    found = engines.block(z.device.type)
    if found is None:
        extra, package = ("cpu", "Numba") if z.device.type == "cpu" else ("triton", "Triton")
        raise extras.missing(f"qact::block on {z.device.type}", package, extra)
    return found
