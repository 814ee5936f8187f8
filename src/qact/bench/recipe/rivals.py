"""The activations that the bench compares: every drop-in entry of the registry, and users' own.

What :mod:`qact.activations` knows, the bench knows. A free-form rival enters by registering one
object here.

Example:
    >>> from torch import nn
    >>> from qact.bench import Rival, register
    >>> _ = register(Rival("tanhshrink", lambda channels: nn.Tanhshrink(), "torch"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from qact.activations import Entry, entry, list_activations
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
    if rival.name in _names():
        raise RecipeError(f"an activation named {rival.name!r} is registered already")
    _RIVALS[rival.name] = rival
    return rival


def rival(name: str) -> Rival:
    """Return the rival of that name, or say which names there are."""
    if name in _RIVALS:
        return _RIVALS[name]
    if name in list_activations(drop_in=True):
        return _from(entry(name))
    if name in list_activations():
        raise RecipeError(
            f"{name!r} cannot stand where ReLU stood: it changes the channels, or is fitted first"
        )
    raise RecipeError(f"unknown activation {name!r}; known: {', '.join(sorted(_names()))}")


def list_rivals(pattern: str = "*") -> list[Rival]:
    """Return the rivals whose names match, QAct's own first, then ReLU, then by name.

    Args:
        pattern: a shell pattern, or ``"all"``.

    Example:
        >>> [found.name for found in list_rivals("*elu")][:3]
        ['relu', 'celu', 'clipped_shifted_relu']
    """
    pattern = "*" if pattern == "all" else pattern
    found = [rival(name) for name in _names() if fnmatchcase(name, pattern)]
    return sorted(found, key=lambda r: (r.control, r.name != "relu", r.name))


def _names() -> list[str]:
    return [*list_activations(drop_in=True), *_RIVALS]


def _from(known: Entry) -> Rival:
    return Rival(known.name, known, known.paper, known.control)
