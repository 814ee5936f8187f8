"""What a rank becomes: ``level(u) = activation(weight * score(u) + bias)``, or a learned table.

The score is the rank itself (``uniform``), ``n`` steps of it (the paper's 100) or the normal score
``Phi^-1(u)``: what the pre-activation would be if its context were exactly Gaussian. A level is
evaluated on the table of a context, never on the data, wherever it can be interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import checks
from qact._compat import replace

Score = Callable[[Tensor, Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def uniform_score(u: Tensor, count: Tensor) -> Tensor:
    """The rank itself."""
    return u


def normal_score(u: Tensor, count: Tensor) -> Tensor:
    """``Phi^-1(u)``, with ``u`` kept ``1 / (32 (count + 1))`` away from 0 and 1.

    A value of the context never reaches those bounds under the smooth rank, so they cut no
    gradient there; they keep values far outside the context finite.
    """
    edge = 0.03125 / (count + 1)
    return torch.special.ndtri(torch.minimum(torch.maximum(u, edge), 1 - edge))


# No equality of its own: torch 2.6 compiles no call of an object that is hashed by its fields.
@dataclass(frozen=True, eq=False)
class Level:
    """A level map: ranks ``u`` in [0, 1] of any shape, and the context's ``count``, to values.

    ``weight`` and ``bias`` broadcast against ``u``. ``interpolable`` says that the map may be
    evaluated at the knots of a table and interpolated between them.
    """

    score: Score
    activation: Callable[[Tensor], Tensor] | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    interpolable: bool = True
    name: str = "custom"

    def __call__(self, u: Tensor, count: Tensor) -> Tensor:
        """The value of rank ``u`` in a context of ``count`` values."""
        value = self.score(u, count.to(u.dtype))
        if self.weight is not None:
            value = value * self.weight.to(u.dtype)
        if self.bias is not None:
            value = value + self.bias.to(u.dtype)
        return value if self.activation is None else self.activation(value)

    @property
    def grows(self) -> bool:
        """Whether the score is known to grow with the rank; one of another's making may turn."""
        return self.score in (uniform_score, normal_score) or isinstance(self.score, Steps)

    def linear(self) -> Level:
        """This level without its activation."""
        return replace(self, activation=None)

    def affine(self, weight: Tensor | None, bias: Tensor | None) -> Level:
        """This level with the scale and shift of its score, one of each per channel (C,)."""
        column = [None if t is None else t[:, None] for t in (weight, bias)]
        return replace(self, weight=column[0], bias=column[1])


def leveled(rank: Tensor, level: Level, count: Tensor) -> Tensor:
    """The level of every single rank (N, C, L): for maps that tables cannot carry."""
    ranks = rank.transpose(0, 1)
    return level(ranks.flatten(1), count).reshape(ranks.shape).transpose(0, 1)


def steps(n: int = 100) -> Level:
    """``floor((n + 1) u) / (n + 1)``, at most ``n / (n + 1)``: the paper's ``n`` quantile levels.

    A value stands above the quantile at level ``i / (n + 1)`` exactly when its rank reaches
    ``i / (n + 1)``. The derivative is that of the rank (arXiv 2405.11573, Algorithm 2).

    >>> steps(3)(torch.tensor([0.1, 0.5, 1.0]), torch.tensor(9.0))
    tensor([0.0000, 0.5000, 0.7500])
    """
    return Level(Steps(checks.integer("n", n, 1)), interpolable=False, name=f"steps({n})")


@dataclass(frozen=True)
class Steps:
    """The score behind :func:`steps`."""

    n: int

    def __call__(self, u: Tensor, count: Tensor) -> Tensor:
        """The highest level ``i / (n + 1)`` that the rank has reached."""
        # Ranks that equal a level up to rounding have reached it.
        slack = max(8 * torch.finfo(u.dtype).eps, 1e-11)
        step = torch.floor((u + slack) * (self.n + 1)).clamp(0, self.n) / (self.n + 1)
        return u + (step - u).detach()


def table(values: Tensor) -> Level:
    """Piecewise linear through ``values`` (C, K) at the ranks 0, 1/(K-1), ..., 1: a learned level.

    Ranks must be laid out as (C, anything); gradients reach ``values``.

    >>> level = table(torch.tensor([[0.0, 1.0, 4.0]]))
    >>> level(torch.tensor([[0.25, 0.75]]), torch.tensor(1.0))
    tensor([[0.5000, 2.5000]])
    """
    if values.dim() != 2 or values.shape[1] < 2:
        raise ValueError(f"a table of levels is (channels, knots >= 2), not {tuple(values.shape)}")

    return Level(Table(values), interpolable=False, name="table")


@dataclass(frozen=True, eq=False)
class Table:
    """The score behind :func:`table`."""

    values: Tensor

    def __call__(self, u: Tensor, count: Tensor) -> Tensor:
        """The interpolated value at rank ``u`` (C, anything)."""
        knots = self.values.to(u.dtype).expand(u.shape[0], -1)
        place = u.clamp(0, 1) * (knots.shape[1] - 1)
        left = place.detach().nan_to_num(0.0).floor().clamp(0, knots.shape[1] - 2).long()
        return torch.lerp(knots.gather(1, left), knots.gather(1, left + 1), place - left)


def parse(spec: str | Level | Callable[[Tensor], Tensor]) -> Level:
    """Return the level that a user's word means.

    ``"uniform"``, ``"steps"`` (100 of them), ``"normal"``, the name of a scalar activation that is
    applied to the normal score (``"relu"``, ``"gelu"``, ...), any such function, or a
    :class:`Level`.
    """
    if isinstance(spec, Level):
        return spec
    if spec == "uniform":
        return Level(uniform_score, name="uniform")
    if spec == "steps":
        return steps()
    if spec == "normal":
        return Level(normal_score, name="normal")
    if isinstance(spec, str) and spec in ACTIVATIONS:
        return Level(normal_score, ACTIVATIONS[spec], name=spec)
    if callable(spec):
        return Level(normal_score, spec, name=getattr(spec, "__name__", repr(spec)))
    known = ["uniform", "steps", "normal", *ACTIVATIONS]
    raise ValueError(f"levels={spec!r} is unknown; give one of {known}, a function, or a Level")
