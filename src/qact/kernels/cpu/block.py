"""The fused block on tensors: memory handed to the compiled loops, channels shared out."""

from __future__ import annotations

import math
from array import array
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qact.kernels.columns import ABREAST, FINITE, IN_MEAN, IN_VAR, STATE
from qact.kernels.cpu.backward import backward as _backward
from qact.kernels.cpu.few import VALUES
from qact.kernels.cpu.few_backward import backward as backward_few
from qact.kernels.cpu.few_forward import forward as forward_few
from qact.kernels.cpu.forward import Affine, Level, Saved, smooth, step
from qact.kernels.cpu.forward import follow as _follow
from qact.kernels.cpu.forward import forward as _forward
from qact.kernels.cpu.frame import ANSWER, cube, filled, form, line, numbers, opened, plane
from qact.kernels.cpu.jit import Kernel, exact, inline, jit
from qact.kernels.cpu.lanes import WIDE
from qact.kernels.cpu.observe import Numbers
from qact.kernels.cpu.pages import empty_like
from qact.kernels.cpu.pool import run, share
from qact.kernels.cpu.rows import Values
from qact.kernels.following import Following
from qact.kernels.plan import Plan, code_columns, table_columns

ANY_SHAPE = True  # see `qact.kernels.engines.any_shape`
# So many tensors stand in the frame of each pass.
FORWARD, BACKWARD = 24, 13


def forward(
    z: Tensor,
    plan: Plan,
    affine: tuple[Tensor | None, ...],
    following: Following | None = None,
    keep: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and what the backward pass needs beside the input if ``keep``.

    ``z`` (N, C, ...) contiguous, float32 or bfloat16, or made float32; ``affine``: six (C,) or
    None; ``following``: what moves towards the batch. Returns output, state (C, 12) float64,
    tables and codes.
    """
    channels, n = z.shape[1], z.numel() // z.shape[1]
    dtype, z = z.dtype, _readable(z, plan)
    out = empty_like(z)
    state = z.new_zeros(channels, STATE, dtype=torch.float64)
    tables = z.new_zeros(channels, table_columns(n, plan) if keep else 0, dtype=torch.float32)
    codes = z.new_empty(channels, code_columns(n, plan) if keep else 0, dtype=torch.uint8)
    moved, rates = _moved(following)
    made = _forward_form(plan, z.shape, z.dtype == torch.bfloat16, keep, moved[0].shape[-1])
    tensors = [z, out, state, tables, codes, *_affine(affine, channels), *moved]
    rest = _steps_kernel if plan.kind == "steps" else _forward_kernel
    _run(rest, _few_forward_kernel if _few(z, plan) else None, filled(made, tensors, rates), z)
    if following is not None:
        following.advance(state, n, moved=True)
    return out.to(dtype), state, tables, codes


def backward(
    z: Tensor, grad: Tensor, plan: Plan, affine: tuple[Tensor | None, ...], *saved: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dz`` and, for the six affine tensors, (6, C)."""
    channels, dtype = z.shape[1], z.dtype
    z, grad = _readable(z, plan), _readable(grad.to(dtype), plan)
    out, grads = empty_like(z), z.new_zeros(6, channels, dtype=torch.float32)
    made = _backward_form(plan, z.shape, z.dtype == torch.bfloat16, *(s.shape[1] for s in saved))
    tensors = [z, out, *saved, *_affine(affine, channels), grad, grads]
    kernel = _few_backward_kernel if _few(z, plan) else None
    _run(_backward_kernel, kernel, filled(made, tensors, ()), z)
    return out.to(dtype), grads


# Frames less what differs from call to call: a step of few values would take as long to describe.


@lru_cache(maxsize=256)
def _forward_form(
    plan: Plan, shape: tuple[int, ...], halves: bool, keep: bool, bins: int
) -> array[int]:
    channels, n, shape = shape[1], math.prod(shape) // shape[1], _flat(shape)
    tables, codes = (f(n, plan) if keep else 0 for f in (table_columns, code_columns))
    saved = [(channels, STATE), (channels, tables), (channels, codes)]
    context = [(channels, bins)] * 2 + [(channels,)] * 4
    norms = [(channels,), (channels,), ()] * 2
    shapes = [shape, shape, *saved, *[(channels,)] * 6, *context, (), *norms]
    return form(shapes, [*plan.numbers(), halves])


@lru_cache(maxsize=256)
def _backward_form(
    plan: Plan, shape: tuple[int, ...], halves: bool, state: int, tables: int, codes: int
) -> array[int]:
    channels, shape = shape[1], _flat(shape)
    saved = [(channels, state), (channels, tables), (channels, codes)]
    shapes = [shape, shape, *saved, *[(channels,)] * 6, shape, (6, channels)]
    return form(shapes, [*plan.numbers(), halves])


def _flat(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(N, C, ...) as (N, C, L)."""
    return shape[0], shape[1], math.prod(shape[2:])


def _moved(following: Following | None) -> tuple[list[Tensor], list[float]]:
    """What a kernel moves in place, a context and the statistics of two norms; how far each."""
    if following is None:
        return [_NONE] * 13, [0.0, 0.0, 0.0]
    tensors, rates = [*following.context, following.batches], [following.rate]
    for norm in (following.before, following.behind):
        if norm is None or not norm.single:
            tensors, rates = [*tensors, _NONE, _NONE, _NONE], [*rates, 0.0]
        else:
            tensors, rates = [*tensors, *norm[:3]], [*rates, norm.rate]
    return tensors, rates


def _few(z: Tensor, plan: Plan) -> bool:
    """Whether channels are done side by side, see `qact.kernels.cpu.few`."""
    plain = plan.kind != "steps" and plan.eps_out is None and plan.rule.grounded != "continuous"
    return WIDE and plain and z.shape[0] <= VALUES and z.numel() == z.shape[0] * z.shape[1]


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
    made = form([t.shape for t in tensors], [*plan.numbers(), z.dtype == torch.bfloat16])
    frame = filled(made, tensors, (following.rate, 0.0, 0.0))
    run(_follow_kernel, frame, channels, z.numel())


def _readable(z: Tensor, plan: Plan) -> Tensor:
    """As it is if its kernel reads that, else in float32."""
    if z.dtype == torch.float32 or (z.dtype == torch.bfloat16 and not _few(z, plan)):
        return z
    return z.detach().float()


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
        one = torch.ones(channels, dtype=torch.float32, device="cpu")
        return one, torch.zeros_like(one)


_NONE = torch.empty(0, 0, dtype=torch.float32, device="cpu")


@jit
def _unpack(frame, tensors):  # type: ignore[no-untyped-def]
    """Rule, level, both eps, and whether in bfloat16; the numbers are behind the tensors."""
    x = numbers(frame, tensors)
    rule = Numbers(int(x[0]), x[1], x[2], x[3], x[4], x[5] != 0)
    return rule, Level(int(x[6]), int(x[7])), (x[8], x[9]), x[10] != 0


@jit
def _rate(frame, k):  # type: ignore[no-untyped-def]
    """How far the context moves (``k = 0``), and the norm before and behind: the last numbers."""
    x = numbers(frame, 0)
    return x[x.size - 4 + k]


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


@exact
def _count(first, follows, frame):  # type: ignore[no-untyped-def]
    """Count the batch: one thread of the kernel that runs first does."""
    if follows and first == 0:
        for k in range(3):
            if _rate(frame, k) > 0:
                line(frame, 17 + 3 * k, np.int64)[0] += 1


@exact
def _follow_norms(first, last, abreast, frame):  # type: ignore[no-untyped-def]
    """The norms' running statistics move, as `Norm.follow` has it, for channels done so."""
    shape, states = cube(frame, 0, np.float32).shape, plane(frame, 2, np.float64)
    values = shape[0] * shape[2]
    unbiased = values / max(values - 1, 1)
    for k in range(2):
        rate = np.float32(_rate(frame, 1 + k))
        if rate > 0:
            mean = line(frame, 18 + 3 * k, np.float32)
            variance = line(frame, 19 + 3 * k, np.float32)
            for c in range(first, last):
                if (states[c, FINITE] == ABREAST) == abreast:
                    seen = np.float32(states[c, IN_MEAN + 2 * k])
                    mean[c] = _between(mean[c], seen, rate)
                    seen = np.float32(states[c, IN_VAR + 2 * k] * unbiased)
                    variance[c] = _between(variance[c], seen, rate)


@exact
def _between(a, b, share):  # type: ignore[no-untyped-def]
    """``torch.lerp``, from the nearer end."""
    if share < np.float32(0.5):
        return a + share * (b - a)
    return b - (np.float32(1) - share) * (b - a)


@inline
def _run_forward(data, become):  # type: ignore[no-untyped-def]
    frame = opened(data)
    rule, level, eps, halves = _unpack(frame, FORWARD)
    z, out, saved = _values(frame, 0, halves), _values(frame, 1, halves), _saved(frame, 2)
    first, last = share(frame, z.single.shape[1])
    affine, context = _affines(frame, 5), _context(frame, 11)
    rate = _rate(frame, 0)
    _forward(first, last, z, rule, level, become, affine, eps, saved, context, rate, out)
    _count(first, frame[ANSWER] == 0, frame)
    _follow_norms(first, last, False, frame)


@Kernel
def _forward_kernel(data):  # type: ignore[no-untyped-def]
    _run_forward(data, smooth)


@Kernel
def _steps_kernel(data):  # type: ignore[no-untyped-def]
    _run_forward(data, step)


@Kernel
def _backward_kernel(data):  # type: ignore[no-untyped-def]
    frame = opened(data)
    rule, level, eps, halves = _unpack(frame, BACKWARD)
    z, out, grad = (
        _values(frame, 0, halves),
        _values(frame, 1, halves),
        _values(frame, 11, halves),
    )
    saved, affine, grads = _saved(frame, 2), _affines(frame, 5), plane(frame, 12, np.float32)
    first, last = share(frame, z.single.shape[1])
    _backward(first, last, z, grad, rule, level, affine, eps, saved, grads, out)


@Kernel
def _few_forward_kernel(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out = plane(frame, 0, f), plane(frame, 1, f)
    states, kept = plane(frame, 2, np.float64), line(frame, 3, f)
    rule, level, eps, _ = _unpack(frame, FORWARD)
    first, last = share(frame, z.shape[1])
    affine, context, rate = _affines(frame, 5), _context(frame, 11), _rate(frame, 0)
    what = z, rule, level.kind, affine, eps, states, kept
    if forward_few(first, last, *what, context, rate, out):
        frame[ANSWER] = 1
    _count(first, True, frame)
    _follow_norms(first, last, True, frame)


@Kernel
def _few_backward_kernel(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out, affine = plane(frame, 0, f), plane(frame, 1, f), _affines(frame, 5)
    states, kept = plane(frame, 2, np.float64), line(frame, 3, f)
    grad, grads = plane(frame, 11, f), plane(frame, 12, np.float32)
    rule, level, eps, _ = _unpack(frame, BACKWARD)
    first, last = share(frame, z.shape[1])
    what = z, grad, rule, level.kind, affine, eps, states, kept
    if backward_few(first, last, *what, grads, out):
        frame[ANSWER] = 1


@Kernel
def _follow_kernel(data):  # type: ignore[no-untyped-def]
    frame = opened(data)
    _, _, eps, halves = _unpack(frame, 10)
    z, state = _values(frame, 0, halves), plane(frame, 1, np.float64)
    weight, bias = line(frame, 2, np.float32), line(frame, 3, np.float32)
    first, last = share(frame, z.single.shape[1])
    _follow(first, last, z, weight, bias, eps[0], state, _context(frame, 4), _rate(frame, 0))
