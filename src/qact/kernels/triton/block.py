"""The fused block on tensors: what is kept, and the running context.

The same three functions as `qact.kernels.cpu.block`, with the same arguments and results.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qact.kernels.columns import STATE
from qact.kernels.following import Following
from qact.kernels.plan import Plan, planned, table_columns
from qact.kernels.triton.launch import cut, words
from qact.kernels.triton.passes import (
    Affine,
    Levels,
    Work,
    assign,
    count,
    descend,
    descend_alone,
    forward_alone,
    look_up,
    recount,
    seek,
    tabulate,
)
from qact.rank.rule import Rule


def try_once(z: Tensor, plan: Plan, affine: Affine, following: Following | None) -> None:
    """Let every kernel of both passes run once, before anything that is kept is moved.

    Raises:
        UnusableError: where one does not compile, or not for this card.
    """
    how, what = cut(z), words(plan, z.shape[0] * z.shape[2])
    tried: set[tuple[Any, ...]] = vars(what).setdefault("_tried", set())
    key = (z.device, z.dtype, how.alone, how.together, following is None)
    if key not in tried:
        z = z.detach().contiguous()
        out, *saved = forward(z, plan, affine, following and following.clone())
        backward(z, out, plan, affine, *saved)
        tried.add(key)


@lru_cache
def probe(device: str) -> None:
    """Let one small batch go through both passes.

    Raises:
        UnusableError: where that does not work, as it will not for any other.
    """
    try_once(torch.zeros(4, 2, 4, device=device), planned(Rule(), "uniform"), (None,) * 6, None)


def forward(
    z: Tensor,
    plan: Plan,
    affine: Affine,
    following: Following | None = None,
    keep: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and what the backward pass needs beside the input if ``keep``.

    ``z`` (N, C, L) float32, float16 or bfloat16, contiguous; ``affine``: six (C,) tensors or None;
    ``following``: what moves towards the batch. Returns output, state (C, 12) float64, tables
    (C, columns) float32 and codes (C, N L) uint8; the last two may be empty.
    """
    how, what = cut(z), words(plan, z.shape[0] * z.shape[2])
    out, exact = torch.empty_like(z), plan.kind == "steps"
    state = z.new_empty(how.channels, STATE, dtype=torch.float64)
    codes = z.new_empty(how.channels, how.n if keep and exact else 0, dtype=torch.uint8)
    levels = Levels.make(codes, how, what) if exact else Levels()
    kept = state.new_empty(
        how.channels, table_columns(how.n, plan) if keep else 0, dtype=torch.float32
    )
    room = kept.shape[1]
    tables = kept
    if room < what.columns and not exact:
        tables = kept.new_empty(how.channels, what.columns)
    if how.alone:
        other = kept if room and tables is not kept else None
        forward_alone(z, out, tables, other, levels, state, affine, how, what, following)
    else:
        parts = count(z, state, affine, how, what)
        if exact:
            seek(z, parts, levels, affine, how, what)
            tabulate(parts, None, levels.reached, state, affine, how, what, True, following)
            assign(z, out, levels, state, affine, how, what)
        else:
            tabulate(parts, tables, None, state, affine, how, what, True, following)
            look_up(z, out, tables, state, affine, how, what)
    if following is not None:  # a kernel's writing is not seen by who counts changes
        torch.autograd.graph.increment_version(following.counters)
    return out, state, kept, codes


def backward(
    z: Tensor, grad: Tensor, plan: Plan, affine: Affine, *saved: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dz`` in the dtype of ``z`` and, for the six affine tensors, (6, C) float32."""
    how, what = cut(z), words(plan, z.shape[0] * z.shape[2])
    state, tables, codes = saved
    dz = torch.empty_like(z)
    parts: Tensor | None = None
    if tables.shape[1] < what.columns and not how.alone:  # not kept: made once more
        tables = tables.new_empty(how.channels, what.columns)
        parts = recount(z, state, affine, how, what)
        if plan.kind != "steps":  # their gradients need the tables earlier than the others
            tabulate(parts, tables, None, state, affine, how, what, fresh=False)
            parts = None
    work = Work.make(z, grad, tables, codes, state, dz, how, what)
    if how.alone:
        descend_alone(work, affine, how, what)
    else:
        descend(work, parts, affine, how, what)
    return dz, work.grads


def follow(
    z: Tensor,
    plan: Plan,
    affine: Affine,
    state: Tensor,
    following: Following,
) -> None:
    """Move a running context towards the batch that ``state`` describes; count no batch."""
    how, what = cut(z), words(plan, z.shape[0] * z.shape[2])
    affine = (*affine[:2], None, None)
    parts = recount(z, state, affine, how, what)
    tabulate(parts, None, None, state, affine, how, what, False, following, counted=False)
