"""Trainable matrix activations ``D(x) x``: the diagonal is a trained step function of the input."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.recompute import step, with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell, along

KNOTS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def diagonal_tmaf(input: Tensor, levels: Tensor, knots: Tensor, dim: int = 1) -> Tensor:
    """``alpha(x_i) x_i`` with ``alpha`` constant between knots (arXiv 2109.09948).

    ``alpha(x) = t_j`` for ``s_j <= x < s_{j+1}``, with ``s_0 = -inf`` and the last interval open.
    ``levels`` (K + 1,), or (C, K + 1) with one row per channel at ``dim``; ``knots`` (K,) rising.
    Levels 0 below and 1 above zero are ReLU. The gradient of ``t_j`` is the sum of ``x`` in
    interval ``j``.

    Example:
        >>> x = torch.tensor([-3.0, -1.0, 2.0])
        >>> diagonal_tmaf(x, torch.tensor([0.1, 1.0]), torch.tensor([0.0]))
        tensor([-0.3000, -0.1000,  2.0000])
    """
    if levels.shape[-1] != knots.shape[0] + 1:
        raise ValueError(
            f"{knots.shape[0]} knots make {knots.shape[0] + 1} intervals, got {levels.shape[-1]} "
            f"levels (shape {tuple(levels.shape)})"
        )
    if levels.dim() == 2:
        levels = along(levels, input, dim)
    return with_partials(
        _stepped, _partials, input, *levels.unbind(-1), *knots.to(input.dtype).unbind()
    )


def _split(numbers: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Levels and knots, of which there is one less."""
    count = len(numbers) // 2 + 1
    return numbers[:count], numbers[count:]


def _level(x: Tensor, levels: tuple[Tensor, ...], knots: tuple[Tensor, ...]) -> Tensor:
    # A choice for every knot, and not a search: the same graph in every export format.
    level = levels[0].expand_as(x)
    for knot, above in zip(knots, levels[1:], strict=True):
        level = torch.where(x >= knot, above, level)
    return level


def _stepped(x: Tensor, *numbers: Tensor) -> Tensor:
    return _level(x, *_split(numbers)) * x


def _partials(x: Tensor, *numbers: Tensor) -> tuple[Tensor | None, ...]:
    levels, knots = _split(numbers)
    reached = [torch.ones_like(x), *(1 - step(knot - x) for knot in knots)]
    within = [a - b for a, b in pairwise(reached)] + reached[-1:]  # one of them is 1
    level = torch.zeros_like(x)
    for part, own in zip(within, levels, strict=True):
        level = level + part * own
    return level, *(part * x for part in within), *(None for _ in knots)


@register(
    "tmaf",
    paper="Liu et al. 2021, arXiv 2109.09948",
    formula="t_j x for s_j <= x < s_(j+1)",
    parameters=("levels",),
)
class DiagonalTMAF(Shell):
    """Module of :func:`diagonal_tmaf`; starts as ReLU, with fixed knots.

    ``num_features`` gives each channel at ``dim`` its own levels; None shares one row.
    """

    shown = ("num_features", "dim")

    def __init__(
        self,
        num_features: int | None = None,
        knots: tuple[float, ...] = KNOTS,
        dim: int = 1,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        if list(knots) != sorted(set(knots)) or not knots:
            raise ValueError(f"knots={knots!r} must rise")
        self.num_features, self.dim = num_features, checks.integer("dim", dim)
        self.knots: Tensor
        self.register_buffer("knots", torch.tensor(knots, dtype=torch.get_default_dtype()))
        start = torch.tensor([0.0] + [float(knot >= 0) for knot in knots])
        rows = start if num_features is None else start.repeat(num_features, 1)
        self.levels = nn.Parameter(rows)

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`diagonal_tmaf`."""
        return diagonal_tmaf(input, self.levels, self.knots, self.dim)
