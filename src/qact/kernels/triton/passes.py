"""Launches: tensors, a cut and a plan handed to the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qact.kernels.triton import backward as gradient
from qact.kernels.triton import forward as kernels
from qact.kernels.triton.constants import PARTIAL, SUMS, TOP_GRAD
from qact.kernels.triton.launch import Cut, Words, options

# Scale and shift of the norm before, of the score, and of the norm behind.
Affine = tuple[Tensor | None, ...]


def forward_alone(
    z: Tensor, out: Tensor, tables: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words
) -> Tensor:
    """Everything in one launch; returns the bins (C, BLOCK)."""
    hist = state.new_empty(how.channels, what.block, dtype=torch.int64)
    flags = options(what, "KIND", "NORM_IN", "NORM_OUT", "GROUNDED", "RELATIVE", "BLOCK")
    kernels.whole[(how.channels,)](
        z, out, hist, tables, tables.shape[1], state, *affine, what.eps_in, what.eps_out,
        what.absolute, what.factor, what.sentinels, *how.sizes, **flags, **how.plane,
    )  # fmt: skip
    return hist


def count(
    z: Tensor, rows: Tensor | None, state: Tensor, affine: Affine, how: Cut, what: Words
) -> Tensor:
    """Bins (C, BLOCK), the state, and the values behind the norm in ``rows`` (C, n)."""
    parts = state.new_empty(how.splits, PARTIAL.value, how.channels)
    hist = state.new_zeros(how.channels, what.block, dtype=torch.int64)
    kernels.measure[how.grid](z, parts, *how.sizes, how.per, **how.shape)
    kernels.count[how.grid](
        z, parts, hist, state, rows, *affine[:2], what.eps_in, what.absolute, what.factor,
        *how.sizes, how.per, how.splits, **how.power, **how.shape,
        **options(what, "NORM_IN", "GROUNDED", "RELATIVE", "BLOCK"),
    )  # fmt: skip
    return hist


def recount(z: Tensor, hist: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words) -> None:
    """Bins once more, for a state that is known."""
    kernels.recount[how.grid](
        z, hist.zero_(), state, *affine[:2], what.eps_in, *how.sizes, how.per,
        **options(what, "NORM_IN", "BLOCK"), **how.shape,
    )  # fmt: skip


def tabulate(
    hist: Tensor, tables: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words,
    fresh: bool = True,
) -> None:  # fmt: skip
    """Ranks and scores; if ``fresh``, what they say of the norm behind too."""
    flags = options(what, "KIND", "GROUNDED", "NORM_OUT", "BLOCK")
    flags["NORM_OUT"] &= fresh
    kernels.table[(how.channels,)](
        hist, tables, tables.shape[1], state, *affine[2:4], what.sentinels, how.n, **flags
    )


def look_up(
    z: Tensor, out: Tensor, tables: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words
) -> None:
    """The output."""
    kernels.lookup[how.grid](
        z, out, tables, tables.shape[1], state, *affine, what.eps_in, what.eps_out, *how.sizes,
        how.per, **options(what, "KIND", "NORM_IN", "NORM_OUT", "BLOCK"), **how.shape,
    )  # fmt: skip


class Work(NamedTuple):
    """What the backward pass reads and writes."""

    z: Tensor
    grad: Tensor
    tables: Tensor
    span: int
    codes: Tensor
    state: Tensor
    sums: Tensor
    mass: Tensor
    edges: Tensor
    pairs: Tensor
    dz: Tensor

    @classmethod
    def make(
        cls, z: Tensor, grad: Tensor, tables: Tensor, codes: Tensor, state: Tensor, dz: Tensor,
        how: Cut, what: Words,
    ) -> Work:  # fmt: skip
        """Memory for what is made on the way; bins that several programs add to begin at zero."""
        channels, block = how.channels, what.block
        sums = state.new_zeros(how.splits, SUMS.value, channels)
        fresh = state.new_empty if how.alone else state.new_zeros
        mass = fresh(channels if what.full else 0, block, 2, dtype=torch.int64)
        edges = tables.new_empty(channels, block)
        pairs = tables.new_empty(channels, 2 * block + 16)
        return cls(z, grad, tables, tables.shape[1], codes, state, sums, mass, edges, pairs, dz)

    @property
    def data(self) -> tuple[Tensor | int, ...]:
        """What every pass over the data takes."""
        return self[:7]

    def result(self) -> Tensor:
        """The gradients of the affine tensors, (6, C)."""
        return self.sums[:, : TOP_GRAD.value].sum(0)


def _scored(affine: Affine) -> bool:
    """Whether the score has a scale or a shift: their gradients cost sums over the data."""
    return affine[2] is not None or affine[3] is not None


def descend_alone(
    work: Work, hist: Tensor | None, affine: Affine, steps: int, how: Cut, what: Words
) -> None:
    """The gradient in one launch; with memory for ``hist``, the tables are made once more."""
    names = ("KIND", "NORM_IN", "NORM_OUT", "GROUNDED", "FULL", "RELATIVE", "BLOCK")
    gradient.whole[(how.channels,)](
        *work, hist, *affine[:5], what.eps_in, what.eps_out, what.factor, what.sentinels, steps,
        *how.sizes, SCORED=_scored(affine), **options(what, *names), **how.plane,
    )  # fmt: skip


def descend(work: Work, affine: Affine, steps: int, how: Cut, what: Words) -> None:
    """The gradient, by as many passes over the data as the plan needs."""
    flags = {**options(what, "KIND", "NORM_IN", "NORM_OUT", "BLOCK"), **how.shape}
    eps, size = (what.eps_in, what.eps_out), (*how.sizes, how.per)
    if what.full or what.norm_out:
        gradient.sum_out[how.grid](*work.data, *affine[:4], *eps, steps, *size, **flags)
    flags.update(how.power)
    if what.full:
        gradient.spread[how.grid](
            *work.data, work.mass, *affine[:5], *eps, steps, *size, how.splits, **flags
        )
    gradient.table[(how.channels,)](
        work.mass, work.edges, work.pairs, work.tables, work.span, work.state, work.sums,
        affine[2], affine[4], what.eps_out, what.factor, what.sentinels, how.channels, how.n,
        how.splits, **how.power,
        **options(what, "NORM_OUT", "GROUNDED", "FULL", "RELATIVE", "BLOCK"),
    )  # fmt: skip
    flags["GROUNDED"] = what.grounded
    end = (*eps, what.sentinels, steps, *size, how.splits)
    if what.norm_in:
        gradient.sum_in[how.grid](*work.data, work.pairs, *affine[:5], *end, **flags)
    gradient.finish[how.grid](
        *work.data, work.pairs, work.dz, *affine[:5], *end, SCORED=_scored(affine), **flags
    )
