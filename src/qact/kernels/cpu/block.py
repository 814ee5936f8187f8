"""The fused block on tensors: memory handed to the compiled loops, channels shared out."""

from __future__ import annotations

from array import array
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qact.kernels.columns import STATE
from qact.kernels.cpu.backward import backward as _backward
from qact.kernels.cpu.few import VALUES
from qact.kernels.cpu.few_backward import backward as backward_few
from qact.kernels.cpu.few_forward import forward as forward_few
from qact.kernels.cpu.forward import Affine, Level, Saved, smooth, step
from qact.kernels.cpu.forward import follow as _follow
from qact.kernels.cpu.forward import forward as _forward
from qact.kernels.cpu.frame import ANSWER, cube, line, numbers, opened, pack, plane
from qact.kernels.cpu.jit import Kernel, inline, jit
from qact.kernels.cpu.lanes import WIDE
from qact.kernels.cpu.observe import Numbers
from qact.kernels.cpu.pool import run, share
from qact.kernels.cpu.rows import Values
from qact.kernels.following import Following
from qact.kernels.plan import Plan, code_columns, table_columns


def forward(
    z: Tensor,
    plan: Plan,
    affine: tuple[Tensor | None, ...],
    following: Following | None = None,
    keep: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and what the backward pass needs beside the input if ``keep``.

    ``z`` (N, C, L) contiguous, float32 or bfloat16, or made float32; ``affine``: six (C,) or None;
    ``following``: what moves towards the batch. Returns output, state (C, 12) float64, tables and
    codes.
    """
    channels, n = z.shape[1], z.shape[0] * z.shape[2]
    dtype, z = z.dtype, _readable(z, plan)
    out = torch.empty_like(z)
    state = torch.zeros(channels, STATE, dtype=torch.float64)
    tables = torch.zeros(channels, table_columns(n, plan) if keep else 0)
    codes = torch.empty(channels, code_columns(n, plan) if keep else 0, dtype=torch.uint8)
    buffers, rate = _no_context(), 0.0
    if following is not None:
        buffers, rate = following.context, following.rate
    tensors = [z, out, state, tables, codes, *_affine(affine, channels), *buffers]
    frame = pack(tensors, [*plan.numbers(), rate, z.dtype == torch.bfloat16])
    rest = _steps_kernel if plan.kind == "steps" else _forward_kernel
    _run(rest, _few_forward_kernel if _few(z, plan) else None, frame, z)
    if following is not None:
        following.advance(state, z.numel() // channels)
    return out.to(dtype), state, tables, codes


def backward(
    z: Tensor, grad: Tensor, plan: Plan, affine: tuple[Tensor | None, ...], *saved: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dz`` and, for the six affine tensors, (6, C)."""
    channels, dtype = z.shape[1], z.dtype
    z, grad = _readable(z, plan), _readable(grad.to(dtype), plan)
    out, grads = torch.empty_like(z), torch.zeros(6, channels, dtype=torch.float64)
    tensors = [z, out, *saved, *_affine(affine, channels), grad, grads]
    frame = pack(tensors, [*plan.numbers(), 0.0, z.dtype == torch.bfloat16])
    _run(_backward_kernel, _few_backward_kernel if _few(z, plan) else None, frame, z)
    return out.to(dtype), grads


def _few(z: Tensor, plan: Plan) -> bool:
    """Whether channels are done side by side, see `qact.kernels.cpu.few`."""
    plain = plan.kind != "steps" and plan.eps_out is None and plan.rule.grounded != "continuous"
    return WIDE and plain and z.shape[2] == 1 and z.shape[0] <= VALUES


def _run(kernel: Kernel, first: Kernel | None, frame: array[int], z: Tensor) -> None:
    """Run a kernel, on what another has left to it if that comes ``first``."""
    if first is not None:
        run(first, frame, z.shape[1], z.numel())
    if first is None or frame[ANSWER]:
        run(kernel, frame, z.shape[1], z.numel())


def follow(
    z: Tensor,
    plan: Plan,
    affine: tuple[Tensor | None, ...],
    state: Tensor,
    following: Following,
) -> None:
    """Move a running context towards the batch that ``state`` describes; count no batch."""
    z, channels = _readable(z, plan), z.shape[1]
    tensors = [z, state, *_affine((*affine, *(None,) * 4), channels)[:2], *following.context]
    rest = [*plan.numbers(), following.rate, z.dtype == torch.bfloat16]
    run(_follow_kernel, pack(tensors, rest), channels, z.numel())


def _readable(z: Tensor, plan: Plan) -> Tensor:
    """As it is if its kernel reads that, else in float32."""
    return z.detach() if z.dtype == torch.bfloat16 and not _few(z, plan) else z.detach().float()


def _affine(affine: tuple[Tensor | None, ...], channels: int) -> list[Tensor]:
    """All six, in float32: scales are one and shifts zero where there are none."""
    return [
        _absent(channels)[k % 2] if tensor is None else _plain(tensor)
        for k, tensor in enumerate(affine)
    ]


def _plain(tensor: Tensor) -> Tensor:
    """Float32 and contiguous, as a rule the tensor itself: only its memory is read."""
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        return tensor
    return tensor.detach().float().contiguous()


@lru_cache(maxsize=64)
def _absent(channels: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # they outlive it
        return torch.ones(channels, dtype=torch.float32), torch.zeros(channels)


def _no_context() -> tuple[Tensor, ...]:
    empty = torch.empty(0, 0)
    return (empty,) * 6


@jit
def _unpack(frame, tensors):  # type: ignore[no-untyped-def]
    """Rule, level, both eps, rate, and whether in bfloat16; the numbers are behind the tensors."""
    x = numbers(frame, tensors)
    rule = Numbers(int(x[0]), x[1], x[2], x[3], x[4], x[5] != 0)
    return rule, Level(int(x[6]), int(x[7])), (x[8], x[9]), x[10], x[11] != 0


@jit
def _values(frame, k, halves):  # type: ignore[no-untyped-def]
    return Values(cube(frame, k, np.float32), cube(frame, k, np.uint16), halves)


@jit
def _affines(frame, k):  # type: ignore[no-untyped-def]
    f = np.float32
    first = line(frame, k, f), line(frame, k + 1, f), line(frame, k + 2, f)
    return Affine(*first, line(frame, k + 3, f), line(frame, k + 4, f), line(frame, k + 5, f))


@jit
def _saved(frame, k):  # type: ignore[no-untyped-def]
    tables, codes = plane(frame, k + 1, np.float32), plane(frame, k + 2, np.uint8)
    return Saved(plane(frame, k, np.float64), tables, codes)


@jit
def _context(frame, k):  # type: ignore[no-untyped-def]
    mass, moment = plane(frame, k, np.float32), plane(frame, k + 1, np.float32)
    mean, std = line(frame, k + 2, np.float32), line(frame, k + 3, np.float32)
    return mass, moment, mean, std, line(frame, k + 4, np.float32), line(frame, k + 5, np.float32)


@inline
def _run_forward(data, become):  # type: ignore[no-untyped-def]
    frame = opened(data)
    rule, level, eps, rate, halves = _unpack(frame, 17)
    z, out, saved = _values(frame, 0, halves), _values(frame, 1, halves), _saved(frame, 2)
    first, last = share(frame, z.single.shape[1])
    affine, context = _affines(frame, 5), _context(frame, 11)
    _forward(first, last, z, rule, level, become, affine, eps, saved, context, rate, out)


@Kernel
def _forward_kernel(data):  # type: ignore[no-untyped-def]
    _run_forward(data, smooth)


@Kernel
def _steps_kernel(data):  # type: ignore[no-untyped-def]
    _run_forward(data, step)


@Kernel
def _backward_kernel(data):  # type: ignore[no-untyped-def]
    frame = opened(data)
    rule, level, eps, _, halves = _unpack(frame, 13)
    z, out, grad = (
        _values(frame, 0, halves),
        _values(frame, 1, halves),
        _values(frame, 11, halves),
    )
    saved, affine, grads = _saved(frame, 2), _affines(frame, 5), plane(frame, 12, np.float64)
    first, last = share(frame, z.single.shape[1])
    _backward(first, last, z, grad, rule, level, affine, eps, saved, grads, out)


@Kernel
def _few_forward_kernel(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out, saved = plane(frame, 0, f), plane(frame, 1, f), _saved(frame, 2)
    rule, level, eps, rate, _ = _unpack(frame, 17)
    first, last = share(frame, z.shape[1])
    affine, context = _affines(frame, 5), _context(frame, 11)
    if forward_few(first, last, z, rule, level.kind, affine, eps, saved, context, rate, out):
        frame[ANSWER] = 1


@Kernel
def _few_backward_kernel(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out, saved, affine = (
        plane(frame, 0, f),
        plane(frame, 1, f),
        _saved(frame, 2),
        _affines(frame, 5),
    )
    grad, grads = plane(frame, 11, f), plane(frame, 12, np.float64)
    rule, level, eps, _, _ = _unpack(frame, 13)
    first, last = share(frame, z.shape[1])
    if backward_few(first, last, z, grad, rule, level.kind, affine, eps, saved, grads, out):
        frame[ANSWER] = 1


@Kernel
def _follow_kernel(data):  # type: ignore[no-untyped-def]
    frame = opened(data)
    _, _, eps, rate, halves = _unpack(frame, 10)
    z, state = _values(frame, 0, halves), plane(frame, 1, np.float64)
    weight, bias = line(frame, 2, np.float32), line(frame, 3, np.float32)
    first, last = share(frame, z.single.shape[1])
    _follow(first, last, z, weight, bias, eps[0], state, _context(frame, 4), rate)
