"""The fused block on tensors: memory, launches, and the order of the passes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qact.kernels.columns import STATE
from qact.kernels.plan import Plan
from qact.kernels.triton import backward as gradient
from qact.kernels.triton import forward as kernels
from qact.kernels.triton import steps as order
from qact.kernels.triton.constants import PARTIAL, SUMS, TOP_GRAD
from qact.kernels.triton.follow import follow
from qact.kernels.triton.launch import Cut, Words, cut, options, words

Affine = tuple[Tensor | None, ...]


class Work(NamedTuple):
    """What the backward pass reads and writes."""

    z: Tensor
    grad: Tensor
    tables: Tensor
    codes: Tensor
    state: Tensor
    sums: Tensor
    mass: Tensor
    edges: Tensor
    pairs: Tensor
    dz: Tensor


def forward(
    z: Tensor,
    plan: Plan,
    affine: Affine,
    context: tuple[Tensor, ...] | None = None,
    rate: float = 0.0,
    keep: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and what the backward pass needs beside the input if ``keep``.

    ``z`` (N, C, L) float32, float16 or bfloat16, contiguous; ``affine``: six (C,) tensors or None;
    ``context``: the buffers that move towards the batch by ``rate``. Returns output, state (C, 12)
    float64, tables (C, 2, BLOCK) float32 and codes (C, N L) uint8; the last two may be empty.
    """
    how, what = cut(z), words(plan, z.shape[0] * z.shape[2])
    out = torch.empty_like(z)
    state = z.new_empty(how.channels, STATE, dtype=torch.float64)
    codes = z.new_empty(how.channels, 0, dtype=torch.uint8)
    tables = z.new_empty(how.channels, 2, what.block, dtype=torch.float32)
    exact = plan.kind == "steps"
    if how.alone and not exact:
        hist = z.new_empty(how.channels, what.block, dtype=torch.int64)
        _whole(z, out, hist, tables, state, affine, how, what)
    else:
        rows = z.new_empty(how.channels, how.n, dtype=torch.float32) if exact else None
        hist = _counted(z, rows, state, affine, how, what)
        _tabulate(hist, tables, state, affine, how, what)
        if rows is None:
            _look_up(z, out, tables, state, affine, how, what)
        else:
            codes = torch.empty_like(rows, dtype=torch.uint8) if keep else codes
            _step(rows, out, codes, state, plan, affine, how, what)
    if context is not None and rate > 0:
        follow(context, hist, state, rate)
    return out, state, tables if keep else tables[:, :, :0], codes


def backward(
    z: Tensor, grad: Tensor, plan: Plan, affine: Affine, *saved: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dz`` in the dtype of ``z`` and, for the six affine tensors, (6, C) float64."""
    how, what = cut(z), words(plan, z.shape[0] * z.shape[2])
    state, tables, codes = saved
    dz = torch.empty_like(z)
    sums = state.new_zeros(how.splits, SUMS.value, how.channels)
    fresh = z.new_empty if how.alone else z.new_zeros
    mass = fresh(how.channels if what.full else 0, what.block, 2, dtype=torch.int64)
    edges = z.new_empty(how.channels, what.block, dtype=torch.float32)
    pairs = z.new_empty(how.channels, 2 * what.block + 16, dtype=torch.float32)
    # The score's own scale and shift cost a sum over the data; without them there is none.
    scored = affine[2] is not None or affine[3] is not None
    work = Work(z, grad, tables, codes, state, sums, mass, edges, pairs, dz)
    if how.alone:
        _whole_back(work, affine, plan.steps, scored, how, what)
    else:
        _shared_back(work, affine, plan.steps, scored, how, what)
    return dz, sums[:, : TOP_GRAD.value].sum(0)


def _whole(
    z: Tensor, out: Tensor, hist: Tensor, tables: Tensor, state: Tensor, affine: Affine,
    how: Cut, what: Words,
) -> None:  # fmt: skip
    flags = options(what, "KIND", "NORM_IN", "NORM_OUT", "GROUNDED", "RELATIVE", "BLOCK")
    shape = {name: how.shape[name] for name in ("ROWS", "V")}
    kernels.whole[(how.channels,)](
        z, out, hist, tables, state, *affine, what.eps_in, what.eps_out, what.absolute,
        what.factor, what.sentinels, *how.sizes, **flags, **shape,
    )  # fmt: skip


def _counted(
    z: Tensor, rows: Tensor | None, state: Tensor, affine: Affine, how: Cut, what: Words
) -> Tensor:
    """Bins (C, BLOCK), the state, and the values behind the norm in ``rows``."""
    parts = state.new_empty(how.splits, PARTIAL.value, how.channels)
    hist = z.new_zeros(how.channels, what.block, dtype=torch.int64)
    kernels.measure[how.grid](z, parts, *how.sizes, how.per, **how.shape)
    flags = options(what, "NORM_IN", "RELATIVE", "BLOCK")
    splits = 1 << (how.splits - 1).bit_length()
    kernels.count[how.grid](
        z, parts, hist, state, rows, *affine[:2], what.eps_in, what.absolute, what.factor,
        *how.sizes, how.per, how.splits, SPLITS=splits, **flags, **how.shape,
    )  # fmt: skip
    return hist


def _tabulate(
    hist: Tensor, tables: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words
) -> None:
    flags = options(what, "KIND", "GROUNDED", "NORM_OUT", "BLOCK")
    kernels.table[(how.channels,)](
        hist, tables, state, *affine[2:4], what.sentinels, how.n, **flags
    )


def _look_up(
    z: Tensor, out: Tensor, tables: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words
) -> None:
    flags = options(what, "KIND", "NORM_IN", "NORM_OUT", "BLOCK")
    kernels.lookup[how.grid](
        z, out, tables, state, *affine, what.eps_in, what.eps_out, *how.sizes, how.per,
        **flags, **how.shape,
    )  # fmt: skip


def _step(
    rows: Tensor, out: Tensor, codes: Tensor, state: Tensor, plan: Plan, affine: Affine,
    how: Cut, what: Words,
) -> None:  # fmt: skip
    found, reached = order.thresholds(rows, state, plan.rule, plan.steps)
    if what.norm_out:
        order.moments(reached, how.n, *affine[2:4], state)
    order.assign[how.grid](
        rows, found, codes if codes.numel() else None, out, state, *affine[2:], what.eps_out,
        plan.steps, *how.sizes, how.per, NORM_OUT=what.norm_out, **how.shape,
    )  # fmt: skip


def _whole_back(
    work: Work, affine: Affine, steps: int, scored: bool, how: Cut, what: Words
) -> None:
    names = ("KIND", "NORM_IN", "NORM_OUT", "GROUNDED", "FULL", "RELATIVE", "BLOCK")
    shape = {name: how.shape[name] for name in ("ROWS", "V")}
    gradient.whole[(how.channels,)](
        *work, *affine[:5], what.eps_in, what.eps_out, what.factor, what.sentinels, steps,
        *how.sizes, SCORED=scored, **options(what, *names), **shape,
    )  # fmt: skip


def _shared_back(
    work: Work, affine: Affine, steps: int, scored: bool, how: Cut, what: Words
) -> None:
    data, splits = work[:6], {"SPLITS": 1 << (how.splits - 1).bit_length()}
    flags = {**options(what, "KIND", "NORM_IN", "NORM_OUT", "BLOCK"), **how.shape}
    eps, size = (what.eps_in, what.eps_out), (*how.sizes, how.per)
    if what.full or what.norm_out:
        gradient.sum_out[how.grid](*data, *affine[:4], *eps, steps, *size, **flags)
    if what.full:
        gradient.spread[how.grid](
            *data, work.mass, *affine[:5], *eps, steps, *size, how.splits, **splits, **flags
        )
    gradient.table[(how.channels,)](
        work.mass, work.edges, work.pairs, work.tables, work.state, work.sums, affine[2],
        affine[4], what.eps_out, what.factor, how.channels, how.n, how.splits, **splits,
        **options(what, "NORM_OUT", "FULL", "RELATIVE", "BLOCK"),
    )  # fmt: skip
    flags.update(splits, GROUNDED=what.grounded)
    end = (*eps, what.sentinels, steps, *size, how.splits)
    if what.norm_in:
        gradient.sum_in[how.grid](*data, work.pairs, *affine[:5], *end, **flags)
    gradient.finish[how.grid](
        *data, work.pairs, work.dz, *affine[:5], *end, SCORED=scored, **flags
    )
