"""What a fused block does, as numbers and words: comparable, hashable, and short to write down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional as F

from qact.kernels.columns import MOST
from qact.rank.bandwidth import Bandwidth
from qact.rank.levels import Level, Steps, normal_score, uniform_score
from qact.rank.rule import GROUNDINGS, Rule

KINDS = ("uniform", "normal", "relu", "steps")
KNOWN = ((uniform_score, None), (normal_score, None), (normal_score, F.relu))
# Levels are kept as bytes.
STEPS = 255
# So many numbers of a channel's tables are kept whatever its size: as a rule all, for few values.
LEAST = 512


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

    def numbers(self) -> list[float]:
        """The plan for a compiled function."""
        rule, h = self.rule, self.rule.bandwidth
        full = rule.gradient == "full"
        options = (rule.grounding, h.absolute, h.relative, h.power, rule.sentinels, full)
        eps = (-1.0 if e is None else e for e in (self.eps_in, self.eps_out))
        return [*map(float, options), float(KINDS.index(self.kind)), float(self.steps), *eps]

    def arguments(self) -> list[float]:
        """The plan for an operator of a graph: the numbers, and what decides its outputs' shapes.

        Compilers keep graphs on disk by the arguments of their operators, and not by how large an
        operator's outputs were: a version that keeps tables of another size must be told apart.
        """
        return [*self.numbers(), float(LEAST)]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Plan:
        """The inverse of :meth:`numbers` and of :meth:`arguments`.

        >>> plan = Plan(Rule(), "relu", eps_in=1e-5)
        >>> Plan.of(plan.numbers()) == plan
        True
        """
        grounded, absolute, relative, power, sentinels, full, kind, steps, *rest = numbers
        word = KINDS[int(kind)]
        bandwidth = Bandwidth(absolute, relative, power)
        gradient = "full" if full else "density"
        rule = Rule(GROUNDINGS[int(grounded)], word != "steps", bandwidth, gradient, sentinels)
        return cls(rule, word, int(steps), *(None if e < 0 else e for e in rest[:2]))


def fuse(rule: Rule, level: Level) -> Plan | None:
    """The plan for this rank and this level, or None if the block cannot be fused."""
    if any(t is not None and t.dim() != 2 for t in (level.weight, level.bias)):
        return None
    if isinstance(level.score, Steps):
        fits = not rule.smooth and level.activation is None and level.score.n <= STEPS
        return planned(rule, "steps", level.score.n) if fits else None
    pair = (level.score, level.activation)
    for kind, known in zip(KINDS, KNOWN, strict=False):
        if rule.smooth and pair == known:
            return planned(rule, kind)
    return None


def planned(
    rule: Rule, kind: str, steps: int = 0, eps_in: float | None = None, eps_out: float | None = None
) -> Plan:
    """One plan for equal ones, so that what an engine makes of it can be kept with it."""
    if torch.compiler.is_compiling():  # which keeps graphs; it warns of what else is kept
        return Plan(rule, kind, steps, eps_in, eps_out)
    return _kept(rule, kind, steps, eps_in, eps_out)


_kept = lru_cache(maxsize=1024)(Plan)


def table_columns(values: int, plan: Plan) -> int:
    """How many numbers of its tables a channel keeps for the backward pass."""
    if plan.kind == "steps":
        return 0
    return max(min(2 * values, LEAST), min(values // 4, 2 * MOST + 8))


def code_columns(values: int, plan: Plan) -> int:
    """How many bytes of levels a channel keeps."""
    return values if plan.kind == "steps" else 0
