"""How a rank is taken: the options that every engine understands, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.rank import bandwidth as _bandwidth
from qact.rank.bandwidth import Bandwidth

GRADIENTS = ("full", "density")
# In the order of the numbers that engines know them by.
GROUNDINGS = (False, "sides", "continuous")
DEFAULT = "sides"  # what ``grounded=True`` means


@dataclass(frozen=True)
class Rule:
    """The definition of a rank, apart from the context it is taken in.

    ``grounded``: each side of zero owns half of the mass; which values are on a side is told by
    their signs (``"sides"``), or up to the kernel's width (``"continuous"``, see
    :func:`side_slopes`; a step rank has no width, and the two are one). ``smooth``: a Gaussian
    kernel of width ``bandwidth`` replaces the step. ``gradient``: ``"full"`` differentiates the
    context too, ``"density"`` holds it constant (the paper). ``sentinels``: pseudo-values at minus
    and plus infinity, that many on each side (the paper's two constants -100 and +100 make it 1).
    """

    grounded: bool | str = True
    smooth: bool = True
    bandwidth: Bandwidth = field(default_factory=lambda: _bandwidth.parse("scott"))
    gradient: str = "full"
    sentinels: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.grounded, (bool, str)):
            raise TypeError(f"grounded={self.grounded!r} must be one of {(True, *GROUNDINGS)}")
        checks.choice("grounded", self.grounded, (True, *GROUNDINGS))
        checks.flag("smooth", self.smooth)
        named = DEFAULT if self.grounded is True else self.grounded
        if named == "continuous" and not self.smooth:
            named = "sides"
        object.__setattr__(self, "grounded", named)
        checks.choice("gradient", self.gradient, GRADIENTS)
        if self.sentinels != 0:
            checks.number("sentinels", self.sentinels, "zero or a positive mass", 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A rule that was pickled when True was all there was to say meant the signs."""
        self.__dict__.update(state)
        if self.grounded is True:
            object.__setattr__(self, "grounded", "sides")

    @property
    def grounding(self) -> int:
        """``grounded`` as a number: its place in `GROUNDINGS`."""
        return GROUNDINGS.index(self.grounded)


def side_slopes(at_zero: Tensor, below: Tensor, count: Tensor, sentinels: float) -> Tensor:
    """``a`` of the continuous grounded rank ``F = 1/2 + a (G - q)``, with ``q = G(0)``.

        a = 1 / (2 max(q + k/n, d))        below zero
        a = 1 / (2 max(1 - q + k/n, d))    at and above zero

    ``G`` is the ungrounded smooth rank in a context of ``n`` values, with ``k`` sentinels, and
    ``d = 1 / (2 (n + 1))``. A side that holds a value of the context holds half of its kernel,
    ``1 / (2 n)``, so ``d`` is felt by stored contexts alone: there a missing side keeps its half at
    infinity.

    Args:
        at_zero: ``q`` (C, 1).
        below: which queries (C, Q) lie below zero.
        count: ``n`` (C, 1).
        sentinels: ``k``.

    >>> q, below = torch.tensor([[0.2]]), torch.tensor([[True, False]])
    >>> side_slopes(q, below, torch.tensor([[9.0]]), 0.0)
    tensor([[2.5000, 0.6250]])
    """
    share = at_zero.where(below, 1 - at_zero) + sentinels / count.clamp_min(1e-30)
    return 0.5 / torch.maximum(share, 0.5 / (count + 1))
