"""The activations that the bench compares; a new rival enters by registering one object.

Example:
    >>> from torch import nn
    >>> from qact.bench import Rival, register
    >>> _ = register(Rival("softplus", lambda channels: nn.Softplus(), "Dugas et al. 2000"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

import qact
from qact.bench.errors import RecipeError


@dataclass(frozen=True)
class Rival:
    """One activation of the comparison.

    Args:
        name: how tables and ``--activation`` call it.
        factory: ``factory(channels)`` returns a fresh module for inputs ``(N, channels, ...)``.
        paper: where it comes from.
        control: True if it is a rival of QAct; the strongest of these is marked in the tables.
    """

    name: str
    factory: Callable[[int], nn.Module]
    paper: str
    control: bool = True

    def describe(self) -> str:
        """Return the module as text: a result made with other options is then recognised."""
        return f"{self.name}: {self.factory(8)!r}"


_RIVALS: dict[str, Rival] = {}


def register(rival: Rival) -> Rival:
    """Enter a rival; a name that is taken is refused."""
    if rival.name in _RIVALS:
        raise RecipeError(f"an activation named {rival.name!r} is registered already")
    _RIVALS[rival.name] = rival
    return rival


def rival(name: str) -> Rival:
    """Return the rival of that name, or say which names there are."""
    if name not in _RIVALS:
        raise RecipeError(f"unknown activation {name!r}; known: {', '.join(sorted(_RIVALS))}")
    return _RIVALS[name]


def list_rivals() -> list[Rival]:
    """Return all rivals in the order of their registration."""
    return list(_RIVALS.values())


_QACT = "Challa et al. 2024, arXiv 2405.11573"
register(Rival("relu", lambda channels: nn.ReLU(), "Nair and Hinton 2010"))
register(
    Rival("qact.paper", lambda channels: qact.QAct.paper(channels), f"{_QACT}, as published", False)
)
register(Rival("qact", lambda channels: qact.QAct(channels), f"{_QACT}, our defaults", False))
