"""The fused block on tensors: memory handed to the compiled loops, channels shared out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qact.kernels.cpu.backward import backward as _backward
from qact.kernels.cpu.forward import Affine, Level, Saved
from qact.kernels.cpu.forward import forward as _forward
from qact.kernels.cpu.frame import cube, line, numbers, pack, plane, share
from qact.kernels.cpu.jit import jit
from qact.kernels.cpu.observe import Numbers
from qact.kernels.cpu.pool import Kernel
from qact.kernels.cpu.table import MOST, STATE
from qact.kernels.plan import KINDS, Plan

# Below so many values per channel tables would outweigh the data, and are made once more.
FEW = 512


def forward(
    z: Tensor,
    plan: Plan,
    affine: tuple[Tensor | None, ...],
    context: tuple[Tensor, ...] | None = None,
    rate: float = 0.0,
    keep: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and what the backward pass needs beside the input if ``keep``.

    ``z`` (N, C, L) float32; ``affine``: six (C,) tensors or None; ``context``: the buffers that
    move towards the batch by ``rate``. Returns output, state (C, 12) float64, tables and codes.
    """
    channels, n = z.shape[1], z.shape[0] * z.shape[2]
    out = torch.empty_like(z)
    # Tables are kept where they are small beside the data; else the input is counted once more.
    columns = min(n // 4, 2 * MOST + 8) if keep and plan.kind != "steps" and n >= FEW else 0
    state = torch.empty(channels, STATE, dtype=torch.float64)
    tables = torch.empty(channels, columns)
    codes = torch.empty(channels, n if keep and plan.kind == "steps" else 0, dtype=torch.uint8)
    buffers = context or _no_context()
    tensors = [z, out, state, tables, codes, *_affine(affine, channels), *buffers]
    frame = pack(tensors, _numbers(plan, rate))
    _FORWARD(frame, channels, z.numel())
    return out, state, tables, codes


def backward(
    z: Tensor, grad: Tensor, plan: Plan, affine: tuple[Tensor | None, ...], *saved: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dz`` and, for the six affine tensors, (6, C)."""
    channels = z.shape[1]
    out, grads = torch.empty_like(z), torch.zeros(6, channels, dtype=torch.float64)
    tensors = [z, out, *saved, *_affine(affine, channels), grad, grads]
    _BACKWARD(pack(tensors, _numbers(plan, 0.0)), channels, z.numel())
    return out, grads


def _affine(affine: tuple[Tensor | None, ...], channels: int) -> list[Tensor]:
    """All six, in float32: scales are one and shifts zero where there are none."""
    filled = []
    for tensor, default in zip(affine, (1.0, 0.0) * 3, strict=True):
        given = tensor.detach().float() if tensor is not None else torch.full((channels,), default)
        filled.append(given.contiguous())
    return filled


def _no_context() -> tuple[Tensor, ...]:
    empty = torch.empty(0, 0)
    return empty, empty, empty[0:0, :], empty[0:0, :], empty.int(), empty.long()


def _numbers(plan: Plan, rate: float) -> list[float]:
    rule, h = plan.rule, plan.rule.bandwidth
    eps = [-1.0 if e is None else e for e in (plan.eps_in, plan.eps_out)]
    full = rule.gradient == "full"
    options = [rule.grounded, h.absolute, h.relative, h.power, rule.sentinels, full]
    return [*map(float, options), float(KINDS.index(plan.kind)), float(plan.steps), *eps, rate]


@jit
def _unpack(frame, tensors):  # type: ignore[no-untyped-def]
    """Rule, level and both eps; the plan's numbers stand behind the tensors."""
    x = numbers(frame, tensors)
    rule = Numbers(x[0] != 0, x[1], x[2], x[3], x[4], x[5] != 0)
    return rule, Level(int(x[6]), int(x[7])), (x[8], x[9]), x[10]


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
def _forward_frame(frame, thread, threads):  # type: ignore[no-untyped-def]
    z, out, saved = cube(frame, 0), cube(frame, 1), _saved(frame, 2)
    rule, level, eps, rate = _unpack(frame, 17)
    context = (
        plane(frame, 11, np.float32),
        plane(frame, 12, np.float32),
        line(frame, 13, np.float32),
        line(frame, 14, np.float32),
        line(frame, 15, np.int32),
        line(frame, 16, np.int64),
    )
    first, last = share(z.shape[1], thread, threads)
    affine = _affines(frame, 5)
    _forward(first, last, z, rule, level, affine, eps, saved, context, rate, out)


@jit
def _backward_frame(frame, thread, threads):  # type: ignore[no-untyped-def]
    z, out, saved, affine = cube(frame, 0), cube(frame, 1), _saved(frame, 2), _affines(frame, 5)
    grad, grads = cube(frame, 11), plane(frame, 12, np.float64)
    rule, level, eps, _ = _unpack(frame, 13)
    first, last = share(z.shape[1], thread, threads)
    _backward(first, last, z, grad, rule, level, affine, eps, saved, grads, out)


_FORWARD, _BACKWARD = Kernel(_forward_frame), Kernel(_backward_frame)
