"""Activations by name, with the paper, the formula, the parameters and the shape of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from qact import checks
from qact.registry import FormulaEntry, Registry


@dataclass(frozen=True)
class Entry(FormulaEntry):
    """What the registry knows of an activation.

    Args:
        name: as in :func:`create`.
        make: class or function that returns a fresh module.
        paper: where it comes from, with the equation.
        formula: the function, in one line.
        family: the file it stands in; by default the module that defines it.
        parameters: names of what it trains.
        pointwise: an output depends on the input at its own place alone.
        halves: the output has half of the channels (or one of ``k`` parts).
        needs_features: ``num_features`` must be given.
        alone: it can be the non-linearity of a network by itself, without being fitted first.
        control: a rival of QAct in the tables of the bench, not QAct itself.
    """

    parameters: tuple[str, ...] = ()
    pointwise: bool = True
    halves: bool = False
    needs_features: bool = False
    alone: bool = True
    control: bool = True

    @property
    def drop_in(self) -> bool:
        """Whether it can stand where ReLU stood: it keeps the shape, and needs no fitting."""
        return self.alone and not self.halves

    def __call__(self, num_features: int | None = None, **options: Any) -> nn.Module:
        """Return a fresh module; see :func:`create`."""
        return _made(self.make, f"{self.name!r}", num_features, options)


ACTIVATIONS = Registry("activation", Entry, room="qact.activations")
register = ACTIVATIONS.register
entry = ACTIVATIONS.__getitem__
names = ACTIVATIONS.names
list_activations = names
"""Return the names that match a shell pattern, sorted: ``list_activations("*elu", halves=False)``.

Facts are fields of :class:`Entry` that must have the given value.
"""


def activation(
    name: str | Callable[..., nn.Module] | None, num_features: int | None = None, **options: Any
) -> nn.Module:
    """Return a fresh activation module.

    Args:
        name: a registered name, any module class, or None for the identity.
        num_features: channels of the input; needed by some entries, ignored by the others, so that
            one call serves all.
        options: of the module. ``inplace`` is accepted by every entry, and obeyed where torch can.

    Raises:
        ValueError: the name is unknown, or the entry needs ``num_features``.
        TypeError: ``name`` is none of the above, or the module does not take an option.

    Example:
        >>> import qact
        >>> qact.activation("golu", inplace=True)
        GoLU()
        >>> qact.activation("qact", 64).num_features
        64
        >>> qact.activation(nn.LeakyReLU, negative_slope=0.2), qact.activation(None)
        (LeakyReLU(negative_slope=0.2), Identity())
    """
    if name is None:
        return nn.Identity()
    if isinstance(name, str):
        return entry(name)(num_features, **options)
    if isinstance(name, type) and issubclass(name, nn.Module):
        return _made(name, name.__name__, num_features, options)
    raise TypeError(f"name={name!r} must be a string, a module class or None")


create = activation


def _made(
    make: Callable[..., nn.Module], name: str, num_features: int | None, options: dict[str, Any]
) -> nn.Module:
    """Call ``make``, without ``num_features`` and ``inplace`` where it does not take them."""
    takes = inspect.signature(make).parameters
    if "inplace" in options and "inplace" not in takes:
        options = {k: v for k, v in options.items() if k != "inplace"}
    if "num_features" in takes:
        if num_features is not None:
            options = {"num_features": checks.integer("num_features", num_features, 1)} | options
        elif takes["num_features"].default is inspect.Parameter.empty:
            raise ValueError(f"{name} needs num_features, the number of channels of its input")
    return make(**options)
