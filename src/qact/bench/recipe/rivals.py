"""The activations that the bench compares: every drop-in entry of the registry, and users' own.

What :mod:`qact.activations` knows, the bench knows: a class of your own enters there, by
``qact.activations.register``. A factory of the channels enters here, by one object.

Example:
    >>> from torch import nn
    >>> from qact.bench import Rival, register
    >>> _ = register(Rival("tanhshrink", lambda channels: nn.Tanhshrink(), "torch"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from qact import activations
from qact.bench.errors import RecipeError
from qact.registry import unknown


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


def register(rival: Rival) -> Rival:
    """Enter a rival among the activations; a name that is taken is refused."""
    if rival.name in activations.names():
        raise RecipeError(f"an activation named {rival.name!r} is registered already")
    facts = {"paper": rival.paper, "formula": "its own", "control": rival.control}
    activations.register(rival.name, **facts)(lambda num_features: rival.factory(num_features))
    return rival


def rival(name: str) -> Rival:
    """Return the rival of that name, or say which names there are."""
    known = activations.names(drop_in=True)
    if name in known:
        found = activations.entry(name)
        return Rival(name, found, found.paper, found.control)
    if name in activations.names():
        raise RecipeError(
            f"{name!r} cannot stand where ReLU stood: it changes the channels, or is fitted first"
        )
    raise unknown("activation", name, known, error=RecipeError)


def list_rivals(pattern: str = "*") -> list[Rival]:
    """Return the rivals whose names match, QAct's own first, then ReLU, then by name.

    Args:
        pattern: a shell pattern, or ``"all"``.

    Example:
        >>> [found.name for found in list_rivals("*elu")][:3]
        ['relu', 'celu', 'clipped_shifted_relu']
    """
    pattern = "*" if pattern == "all" else pattern
    found = [rival(name) for name in activations.names(pattern, drop_in=True)]
    return sorted(found, key=lambda r: (r.control, r.name != "relu", r.name))
