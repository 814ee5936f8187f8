"""How a rank is taken: the options that every engine understands, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field

from qact import checks
from qact.rank import bandwidth as _bandwidth
from qact.rank.bandwidth import Bandwidth

GRADIENTS = ("full", "density")


@dataclass(frozen=True)
class Rule:
    """The definition of a rank, apart from the context it is taken in.

    ``grounded``: each side of zero owns half of the mass. ``smooth``: a Gaussian kernel of width
    ``bandwidth`` replaces the step. ``gradient``: ``"full"`` differentiates the context too,
    ``"density"`` holds it constant (the paper). ``sentinels``: pseudo-values at minus and plus
    infinity, that many on each side (the paper's two constants -100 and +100 make it 1).
    """

    grounded: bool = True
    smooth: bool = True
    bandwidth: Bandwidth = field(default_factory=lambda: _bandwidth.parse("scott"))
    gradient: str = "full"
    sentinels: float = 0.0

    def __post_init__(self) -> None:
        checks.flag("grounded", self.grounded)
        checks.flag("smooth", self.smooth)
        checks.choice("gradient", self.gradient, GRADIENTS)
        if self.sentinels != 0:
            checks.number("sentinels", self.sentinels, "zero or a positive mass", 0)
