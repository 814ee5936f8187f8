"""Exact step levels: the level rises at order statistics, and those come from a sort.

With ties counted in full, ``#{i : z_i <= z}`` reaches ``c`` exactly when ``z`` reaches the ``c``-th
smallest value. So level ``j`` begins at one order statistic, and a search among these thresholds
gives every value its level.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qact.kernels.columns import OUT_MEAN, OUT_VAR
from qact.kernels.plan import Plan
from qact.kernels.triton.launch import Cut, Words, launch
from qact.kernels.triton.lookup import out_norm
from qact.kernels.triton.observe import sound
from qact.kernels.triton.passes import Affine
from qact.kernels.triton.tiles import channel, given, tile
from qact.rank.rule import Rule


def step(
    rows: Tensor, found: Tensor, out: Tensor, codes: Tensor, state: Tensor, plan: Plan,
    affine: Affine, how: Cut, what: Words,
) -> None:  # fmt: skip
    """The output for values in the order ``rows`` (C, n), and, if there is room, their levels."""
    launch(
        assign, how.grid, rows, found, codes if codes.numel() else None, out, state, *affine[2:],
        what.eps_out, plan.steps, *how.sizes, how.per, NORM_OUT=what.norm_out, **how.shape,
    )  # fmt: skip


def thresholds(
    rows: Tensor, parts: Tensor, state: Tensor, plan: Plan, affine: Affine, n: int
) -> Tensor:
    """From which value on each level is reached, (C, steps); the moments behind go to ``state``."""
    ordered, below = rows.sort(1).values, parts[:, :, -1].sum(0).double()
    position = positions(below, n, plan.rule, plan.steps)
    found = ordered.gather(1, (position - 1).clamp_max(n - 1))
    found = torch.where(position <= n, found, torch.inf)
    if plan.eps_out is not None:
        moments(n - torch.searchsorted(ordered, found), n, affine[2], affine[3], state)
    return found


def positions(below: Tensor, n: int, rule: Rule, steps: int) -> Tensor:
    """How many values must not exceed ``z`` for it to reach level ``j``: (C, steps).

    The rank of ``c`` values is ``c / n``, or grounded ``(c + k) / 2 (n- + k)`` up to ``n-`` and
    ``1/2 + (c - n-) / 2 (n+ + k)`` beyond, with ``k`` sentinels a side.
    """
    slack, k = 1e-9, rule.sentinels
    below = below[:, None]
    rank = torch.arange(1, steps + 1, device=below.device, dtype=torch.float64) / (steps + 1)
    if not rule.grounded:
        c = torch.ceil(rank * n - slack).expand(below.shape[0], -1)
    else:
        c = torch.ceil(2 * rank * (below + k) - k - slack)
        beyond = below + torch.ceil((2 * rank - 1) * (n - below + k) - slack).clamp_min(1)
        c = torch.where((c > below) | (below == 0), beyond, c)
    return c.clamp(1, n + 1).long()


def moments(
    reached: Tensor, n: int, weight: Tensor | None, bias: Tensor | None, state: Tensor
) -> None:
    """Mean and variance of the levels into ``state``: sums of integers, exact.

    If ``N_j`` values reach level ``j``, the levels sum up to ``sum_j N_j`` and their squares to
    ``sum_j (2 j - 1) N_j``.
    """
    steps = reached.shape[1]
    odd = torch.arange(1, 2 * steps, 2, device=reached.device)
    mean = reached.sum(1).double() / n
    variance = ((reached * odd).sum(1).double() / n - mean * mean).clamp_min(0)
    scale = 1.0 / (steps + 1) * (1.0 if weight is None else weight.double())
    state[:, OUT_MEAN] = mean * scale + (0.0 if bias is None else bias.double())
    state[:, OUT_VAR] = variance * scale * scale


@triton.jit
def assign(
    rows, threshold, codes, out, state, weight, bias, out_weight, out_bias, eps_out, steps,
    C, L, n, per,
    NORM_OUT: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The level that each value has reached, ``codes`` (C, n) if given, and the norm behind."""
    c, exists = channel(C, K)
    out_mean, out_scale = out_norm(state, c, exists, eps_out, NORM_OUT)
    w, b = given(weight, c, exists, 1.0) / (steps + 1.0), given(bias, c, exists, 0.0)
    w_out, b_out = given(out_weight, c, exists, 1.0), given(out_bias, c, exists, 0.0)
    fine, row = sound(state, c, exists), c.to(tl.int64) * n
    first = tl.program_id(1) * per
    for t in range(first, tl.minimum(first + per, tl.cdiv(n, ROWS * V))):
        place, index, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        y = tl.load(rows + row + index, mask=mask & fine, other=0.0)
        code = _search(threshold + c * steps, y, steps, index)
        if codes is not None:
            tl.store(codes + row + index, code.to(tl.uint8), mask=mask)
        value = code.to(tl.float32) * w + b
        if NORM_OUT:
            value = (value - out_mean) * out_scale * w_out + b_out
        value = tl.where(fine, value, float("nan"))
        tl.store(out + place, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _search(threshold, y, steps, index):
    """How many of ``steps`` (255 at most) ascending thresholds ``y`` has reached."""
    low, high = index * 0, index * 0 + steps
    for _ in tl.static_range(8):
        middle = (low + high) >> 1
        open_ = low < high
        at = tl.load(threshold + middle, mask=open_, other=0.0)
        up = open_ & (at <= y)
        high = tl.where(open_ & (at > y), middle, high)
        low = tl.where(up, middle + 1, low)
    return low
