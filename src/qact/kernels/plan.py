"""What a fused block does, as numbers and words: comparable, hashable, and short to write down."""

from __future__ import annotations

from dataclasses import dataclass

from qact.rule import Rule

KINDS = ("uniform", "normal", "relu", "steps")


@dataclass(frozen=True)
class Plan:
    """Norm, rank, level, norm.

    ``kind``: what a rank becomes, one of `KINDS`; ``steps``: how many of them. ``eps_in`` and
    ``eps_out``: of the BatchNorms before and behind, None where there is none.
    """

    rule: Rule
    kind: str = "uniform"
    steps: int = 0
    eps_in: float | None = None
    eps_out: float | None = None
