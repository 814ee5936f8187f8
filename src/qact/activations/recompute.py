"""Composed functions at the memory of ReLU: only the input is saved, the backward recomputes.

Two ways to the same end: :func:`with_partials` is given the partial derivatives in closed form,
:func:`recomputed` leaves them to autograd. Both go through a tensor on a CPU in pieces that stay in
the cache, so that temporaries never reach the main memory. Half precision is computed in float32.
A compiler gets the plain function: it fuses, and decides by itself what to save. But partial
derivatives it is given too, since it would keep every mask that it meets forward, and reads and
writes masks slowly (inductor of torch 2.13.0, on a CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from qact import _compat
from qact._compat import is_exporting
from qact.first_order import one_by_one, refuse_forward_twice

PIECE = 2**15  # values; a handful of temporaries of this size fits into a core's cache

Value = Callable[..., Tensor]
Partials = Callable[..., tuple[Tensor | None, ...]]


def with_partials(value: Value, partials: Partials, input: Tensor, *parameters: Tensor) -> Tensor:
    """``value(input, *parameters)``, elementwise, differentiated by ``partials`` in closed form.

    ``partials`` takes the same arguments and returns the derivative of each output value with
    respect to each argument, all like ``input``; None for one that needs no gradient. Parameters
    broadcast against ``input`` and have one element, or do not reach into its first dimension.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> with_partials(torch.square, lambda x: (2 * x,), x).backward()
        >>> x.grad
        tensor([6.])
    """
    _floating(input)
    if torch.compiler.is_compiling():
        if is_exporting() or not torch.is_grad_enabled():
            return value(widened(input), *map(widened, parameters)).to(input.dtype)
        return _Traced.apply(value, partials, input, *parameters)
    if _compat.watched():
        return _Transformed.apply(value, partials, input, *parameters)
    return _Fused.apply(value, partials, input, *parameters)


def recomputed(value: Value, input: Tensor, *parameters: Tensor) -> Tensor:
    """``value(input, *parameters)`` of independent rows, which saves its arguments alone.

    Parameters must not reach into the first dimension, along which the input is cut.

    Example:
        >>> x = torch.tensor([[1.0, 3.0]], requires_grad=True)
        >>> recomputed(lambda x: x[:, :1] * x[:, 1:], x).backward()
        >>> x.grad
        tensor([[3., 1.]])
    """
    _floating(input)
    if torch.compiler.is_compiling() or _compat.watched():
        return value(widened(input), *map(widened, parameters)).to(input.dtype)
    return _Recomputed.apply(value, input, *parameters)


def step(x: Tensor) -> Tensor:
    """1 where ``x > 0``, else 0, without a mask: vectorised, which a comparison and a cast are not.

    Example:
        >>> step(torch.tensor([-2.0, 0.0, 0.5]))
        tensor([0., 0., 1.])
    """
    return x.sign().clamp_min(0.0)


def _floating(input: Tensor) -> None:
    """Refuse integers, to whose dtype the values would be cut."""
    if not input.is_floating_point():
        raise TypeError(f"input must be floating, got {input.dtype}; input.float() makes it so")


def widened(input: Tensor) -> Tensor:
    """``input`` in float32 if it is of half precision, else as it is."""
    return input.float() if input.dtype in (torch.float16, torch.bfloat16) else input


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Value, partials: Partials, input: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.partials = partials
        ctx.save_for_backward(input, *parameters)
        rows, scalars = _flat(input, parameters)
        return _mapped(value, rows, scalars).view_as(input)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # asked for a gradient that can be differentiated again
            return _Traced.backward(ctx, grad)
        input, *parameters = ctx.saved_tensors
        rows, scalars = _flat(input, parameters)
        grads = grad.reshape(rows.shape)
        output, sums = torch.empty_like(rows), [torch.zeros_like(p) for p in scalars]
        for piece in _pieces(rows):
            g = widened(grads[piece])
            first, *others = ctx.partials(widened(rows[piece]), *scalars)
            output[piece] = g * first
            for total, partial in zip(sums, others, strict=True):
                if partial is not None:
                    total += (g * partial).sum_to_size(total.shape)
        return None, None, output.view_as(input), *_like(sums, parameters)


class _Traced(torch.autograd.Function):
    """:class:`_Fused` in one piece, as a compiler reads it."""

    @staticmethod
    def forward(
        ctx: Any, value: Value, partials: Partials, input: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.partials = partials
        ctx.save_for_backward(input, *parameters)
        return value(widened(input), *map(widened, parameters)).to(input.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        partials, wide = ctx.partials(*map(widened, tensors)), widened(grad)
        return None, None, *_like([None if p is None else wide * p for p in partials], tensors)


class _Transformed(torch.autograd.Function):
    """:class:`_Traced` as transforms of ``torch.func`` and forward mode want it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Value, partials: Partials, input: Tensor, *parameters: Tensor) -> Tensor:
        return value(widened(input), *map(widened, parameters)).to(input.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.partials, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    backward = staticmethod(_Traced.backward)

    @staticmethod
    def jvp(ctx: Any, *moves: Any) -> Tensor:
        refuse_forward_twice()
        tensors = ctx.saved_tensors
        partials, moved = ctx.partials(*map(widened, tensors)), torch.zeros_like(tensors[0])
        for partial, move in zip(partials, moves[2:], strict=True):
            if partial is not None and move is not None:
                moved = moved + partial * widened(move)
        return moved.to(tensors[0].dtype)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Value, input: Tensor, *parameters: Tensor) -> Tensor:
        ctx.value = value
        ctx.save_for_backward(input, *parameters)
        return _mapped(value, input, [widened(p) for p in parameters])

    @staticmethod
    @one_by_one
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_again(ctx.value, [input, *parameters], grad)
        leaves = [widened(p).detach().requires_grad_() for p in parameters]
        output, sums = torch.empty_like(input), [torch.zeros_like(p) for p in leaves]
        for piece in _pieces(input):
            x = widened(input[piece]).detach().requires_grad_()
            with torch.enable_grad():
                y = ctx.value(x, *leaves)
            first, *others = torch.autograd.grad(y, [x, *leaves], widened(grad[piece]))
            output[piece] = first
            for total, part in zip(sums, others, strict=True):
                total += part
        return None, output, *_like(sums, parameters)


def _again(value: Value, tensors: list[Tensor], grad: Tensor) -> list[Tensor | None]:
    """The gradients by autograd, with a graph of their own."""
    wanted = [t for t in tensors if t.requires_grad]
    output = value(*map(widened, tensors))
    found = iter(torch.autograd.grad(output, wanted, widened(grad), create_graph=True))
    return [next(found) if t.requires_grad else None for t in tensors]


def _flat(input: Tensor, parameters: Any) -> tuple[Tensor, list[Tensor]]:
    """The input with a first dimension that can be cut finely: flat where no parameter minds."""
    wide = [widened(p) for p in parameters]
    if input.is_contiguous() and all(p.numel() == 1 for p in wide):
        return input.view(-1), [p.reshape(()) for p in wide]
    return input, wide


def _pieces(rows: Tensor) -> Iterator[slice | Any]:
    """Cuts along the first dimension; other devices than a CPU get everything at once."""
    if rows.dim() == 0 or rows.device.type != "cpu" or rows.numel() <= PIECE:
        yield ...
        return
    step = max(1, PIECE * rows.shape[0] // rows.numel())
    for begin in range(0, rows.shape[0], step):
        yield slice(begin, begin + step)


def _mapped(value: Value, rows: Tensor, parameters: list[Tensor]) -> Tensor:
    output = None
    for piece in _pieces(rows):
        part = value(widened(rows[piece]), *parameters).to(rows.dtype)
        if piece is ...:
            return part
        if output is None:
            output = _blank(rows, part)
        output[piece] = part
    assert output is not None
    return output


def _blank(rows: Tensor, part: Tensor) -> Tensor:
    """An output for all rows, given that of the first ones; laid out as the input if it can be."""
    if part.shape[1:] == rows.shape[1:]:
        return torch.empty_like(rows)
    return rows.new_empty(rows.shape[0], *part.shape[1:])


def _like(sums: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Each sum in the shape and dtype of its parameter."""
    return [
        None if s is None else _shaped(s, p).to(p.dtype)
        for s, p in zip(sums, parameters, strict=True)
    ]


def _shaped(total: Tensor, parameter: Tensor) -> Tensor:
    if total.dim() > parameter.dim() or total.numel() > parameter.numel():
        return total.sum_to_size(parameter.shape)
    return total.reshape(parameter.shape)
