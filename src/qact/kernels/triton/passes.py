"""Launches: tensors, a cut and a plan handed to the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qact.kernels.following import Following
from qact.kernels.triton import backward as gradient
from qact.kernels.triton import forward as kernels
from qact.kernels.triton import steps
from qact.kernels.triton.constants import PARTIAL, SUMS
from qact.kernels.triton.launch import Cut, Words, launch

# Scale and shift of the norm before, of the score, and of the norm behind.
Affine = tuple[Tensor | None, ...]


class Levels(NamedTuple):
    """What becomes of values that have step levels; nothing where levels are smooth."""

    ordered: Tensor | None = None
    found: Tensor | None = None
    reached: Tensor | None = None
    codes: Tensor | None = None

    @classmethod
    def make(cls, codes: Tensor, how: Cut, what: Words) -> Levels:
        """Memory for sorted values (C, n), and where levels begin and who is there (C, steps)."""
        found = codes.new_empty(how.channels, what.steps, dtype=torch.float32)
        reached = codes.new_empty(how.channels, what.steps, dtype=torch.int32)
        ordered = codes.new_empty(how.channels, how.n, dtype=torch.float32)
        return cls(ordered, found, reached, codes if codes.numel() else None)


def forward_alone(
    z: Tensor, out: Tensor, tables: Tensor, kept: Tensor | None, levels: Levels, state: Tensor,
    affine: Affine, how: Cut, what: Words, following: Following | None,
) -> None:  # fmt: skip
    """Everything in one launch."""
    hist = state.new_empty(how.channels, what.block, dtype=torch.int64)
    followed, flags = _followed(following)
    # Where nothing is sought, the kernel must not be another one for every size of a channel.
    flags |= {"SENTINELS": 0.0, "RUN": 16, "RUNS": 1, "J": 16}
    if levels.found is not None:
        flags |= how.seeking | {"SENTINELS": what.sentinels}
    launch(
        kernels.whole, (how.channels,), z, out, hist, tables, tables.shape[1], kept,
        0 if kept is None else kept.shape[1], *levels, state, *affine, what.eps_in, what.eps_out,
        what.absolute, what.factor, what.sentinels, what.steps, followed, *how.sizes,
        **how.plane(what), **flags,
        **what.options("KIND", "NORM_IN", "NORM_OUT", "GROUNDED", "RELATIVE", "BLOCK"),
    )  # fmt: skip


def count(z: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words) -> Tensor:
    """Bins (programs, C, BLOCK), and the state."""
    seen = state.new_empty(how.splits, PARTIAL.value, how.channels)
    launch(kernels.measure, how.grid, z, seen, *how.sizes, how.per, **how.shape)
    return recount(z, state, affine, how, what, seen)


def recount(
    z: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words,
    seen: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Bins (programs, C, BLOCK), for a state that is known or that programs have ``seen``."""
    fine = how.fine
    parts = state.new_empty(fine.splits, how.channels, what.block, dtype=torch.int64)
    launch(
        kernels.count, fine.grid, z, seen, parts, state, *affine[:2], what.eps_in,
        what.absolute, what.factor, *how.sizes, fine.per, how.splits, SPLITS=how.power,
        **how.counting(what), **what.options("NORM_IN", "GROUNDED", "RELATIVE", "BLOCK"),
    )  # fmt: skip
    return parts


def seek(z: Tensor, parts: Tensor, levels: Levels, affine: Affine, how: Cut, what: Words) -> None:
    """Where step levels begin, and how many values have reached them."""
    launch(
        steps.sort, (how.channels, how.runs), z, levels.ordered, affine[0], *how.sizes,
        NORM_IN=what.norm_in, **how.sorting,
    )  # fmt: skip
    launch(
        steps.begin, (how.channels, -(-what.steps // how.seeking["J"])), *levels[:3], parts,
        how.channels, how.n, what.steps, parts.shape[0], SENTINELS=what.sentinels,
        MANY=how.runs > how.seeking["RUNS"], **how.seeking, **what.options("GROUNDED", "BLOCK"),
    )  # fmt: skip


def assign(
    z: Tensor, out: Tensor, levels: Levels, state: Tensor, affine: Affine, how: Cut, what: Words
) -> None:
    """The output of step levels."""
    launch(
        steps.assign, how.grid, z, out, levels.found, levels.codes, state, affine[0], *affine[2:],
        what.eps_out, what.steps, *how.sizes, how.per, **what.options("NORM_IN", "NORM_OUT"),
        **how.shape,
    )  # fmt: skip


def tabulate(
    parts: Tensor, tables: Tensor | None, reached: Tensor | None, state: Tensor, affine: Affine,
    how: Cut, what: Words, fresh: bool = True, following: Following | None = None,
    counted: bool = True,
) -> None:  # fmt: skip
    """Ranks and scores; if ``fresh``, what they say of the norm behind too. And what follows.

    Or what those say who have ``reached`` step levels.
    """
    followed, flags = _followed(following, counted)
    flags |= what.options("KIND", "GROUNDED", "NORM_OUT", "BLOCK")
    if not fresh:
        flags["NORM_OUT"] = False
    span = 0 if tables is None else tables.shape[1]
    launch(
        kernels.table, (how.channels,), parts, tables, span, state, *affine[2:4], what.sentinels,
        reached, what.steps, followed, how.channels, how.n, parts.shape[0], **flags, **what.warps,
    )  # fmt: skip


def _followed(
    following: Following | None, counted: bool = True
) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """What `qact.kernels.triton.follow.follow` takes."""
    if following is None:
        return None, {"COUNTED": False, "CELLS": 1}
    bins = following.context[0].shape[1]
    numbers = (*following.context, following.batches, following.momentum or 0.0, bins)
    for norm in (following.before, following.behind):
        if norm is None:
            numbers += (None, None, None, 0.0)
        else:
            momentum = -1.0 if norm.momentum is None else norm.momentum
            numbers += (norm.mean, norm.variance, norm.batches, momentum)
    return numbers, {"COUNTED": counted, "CELLS": 1 << (bins - 1).bit_length()}


def look_up(
    z: Tensor, out: Tensor, tables: Tensor, state: Tensor, affine: Affine, how: Cut, what: Words
) -> None:
    """The output."""
    launch(
        kernels.lookup, how.grid, z, out, tables, tables.shape[1], state, *affine, what.eps_in,
        what.eps_out, *how.sizes, how.per,
        **what.options("KIND", "NORM_IN", "NORM_OUT"), **how.shape,
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
    grads: Tensor

    @classmethod
    def make(
        cls, z: Tensor, grad: Tensor, tables: Tensor, codes: Tensor, state: Tensor, dz: Tensor,
        how: Cut, what: Words,
    ) -> Work:  # fmt: skip
        """Memory for what is made on the way: every number is written before it is read."""
        channels, block = how.channels, what.block
        sums = state.new_empty(how.splits, SUMS.value, channels)
        splits = how.fine.splits if what.full else 0
        mass = tables.new_empty(splits, channels, 2, block)
        edges = tables.new_empty(channels, block)
        pairs = tables.new_empty(channels, 2 * block + 16)
        grads = tables.new_empty(SUMS.value, channels)
        return cls(
            z, grad, tables, tables.shape[1], codes, state, sums, mass, edges, pairs, dz, grads
        )

    @property
    def data(self) -> tuple[Tensor | int, ...]:
        """What every pass over the data takes."""
        return self[:7]


def _scored(affine: Affine) -> bool:
    """Whether the score has a scale or a shift: their gradients cost sums over the data."""
    return affine[2] is not None or affine[3] is not None


def descend_alone(work: Work, affine: Affine, how: Cut, what: Words) -> None:
    """The gradient in one launch, with memory for tables where they need not have been kept."""
    hist: Tensor | None = None
    spare: Tensor | None = None
    if work.span < what.columns:
        hist = work.state.new_empty(how.channels, what.block, dtype=torch.int64)
        spare = work.tables.new_empty(how.channels, what.columns)
    names = ("KIND", "NORM_IN", "NORM_OUT", "GROUNDED", "FULL", "RELATIVE", "BLOCK")
    launch(
        gradient.whole, (how.channels,), *work, hist, spare, *affine[:5], what.eps_in,
        what.eps_out, what.factor, what.sentinels, what.steps, *how.sizes, SCORED=_scored(affine),
        **what.options(*names), **how.plane(what),
    )  # fmt: skip


def descend(work: Work, parts: Tensor | None, affine: Affine, how: Cut, what: Words) -> None:
    """The gradient, by as many passes over the data as the plan needs; ``parts`` of step levels."""
    kind = what.options("KIND", "NORM_IN", "NORM_OUT")
    names = {**kind, "BLOCK": what.block}
    eps, size, fine = (what.eps_in, what.eps_out), (*how.sizes, how.per), how.fine
    scored, splits = _scored(affine), {"SPLITS": how.power}
    if what.norm_out:
        launch(
            gradient.sum_out, how.grid, *work.data, *affine[:4], *eps, what.steps, *size, **kind,
            **how.shape,
        )  # fmt: skip
    if what.full:
        launch(
            gradient.spread, fine.grid, *work.data, work.mass, *affine[:5], *eps, what.steps,
            *how.sizes, fine.per, how.splits, SCORED=scored,
            **names, **splits, **how.weighing(what),
        )  # fmt: skip
    launch(
        gradient.table, (how.channels,), parts, work.mass, work.edges, work.pairs, work.tables,
        work.span, work.state, affine[2], what.factor, what.sentinels, how.channels, how.n,
        fine.splits, **what.options("KIND", "GROUNDED", "FULL", "RELATIVE", "BLOCK"), **what.warps,
    )  # fmt: skip
    flags = {**names, **splits, **how.shape, **what.options("GROUNDED")}
    end = (*eps, what.sentinels, what.steps, *size, how.splits)
    late = scored and not what.full
    if what.norm_in or late:
        launch(
            gradient.sum_in, how.grid, *work.data, work.pairs, *affine[:5], *end, SCORED=late,
            **flags,
        )  # fmt: skip
    launch(
        gradient.finish, how.grid, *work.data, work.pairs, work.dz, work.grads, *affine[:5],
        *end, how.splits if late else fine.splits, SCORED=scored, **flags,
    )  # fmt: skip
