"""One registry of activations: by name, with the paper, the parameters and the shape of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from qact import checks

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Entry:
    """What the registry knows of an activation.

    Args:
        name: as in :func:`activation`.
        make: class or function that returns a fresh module.
        paper: where it comes from, with the equation.
        formula: the function, in one line.
        family: the file it stands in.
        parameters: names of what it trains.
        pointwise: an output depends on the input at its own place alone.
        halves: the output has half of the channels (or one of ``k`` parts).
        needs_features: ``num_features`` must be given.
        alone: it can be the non-linearity of a network by itself, without being fitted first.
        control: a rival of QAct in the tables of the bench, not QAct itself.
    """

    name: str
    make: Callable[..., nn.Module]
    paper: str
    formula: str
    family: str
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
        """Return a fresh module; see :func:`activation`."""
        return _made(self.make, f"{self.name!r}", num_features, options)


_ENTRIES: dict[str, Entry] = {}


def register(
    name: str, *, paper: str, formula: str, family: str | None = None, **facts: Any
) -> Callable[[Factory], Factory]:
    """Enter the decorated class (or factory) as ``name``; a name that is taken is refused.

    Args:
        name: what :func:`activation` calls it.
        paper: where it comes from.
        formula: the function, in one line.
        family: by default the module that defines it.
        facts: further fields of :class:`Entry`.

    Raises:
        ValueError: the name is taken, or ``paper`` or ``formula`` is empty.

    Example:
        >>> from qact.activations import register
        >>> @register("relu", paper="mine", formula="max(0, x)")
        ... class Again(nn.ReLU): ...
        Traceback (most recent call last):
        ValueError: an activation named 'relu' is registered already
    """
    if name in _ENTRIES:
        raise ValueError(f"an activation named {name!r} is registered already")
    if not paper or not formula:
        raise ValueError(
            f"{name!r} must name its paper and its formula, got {paper!r}, {formula!r}"
        )

    def enter(make: Factory) -> Factory:
        where = family or make.__module__.rpartition(".")[2]
        _ENTRIES[name] = Entry(name, make, paper, formula, where, **facts)
        return make

    return enter


def entry(name: str) -> Entry:
    """Return what is known of an activation, or say which ones there are."""
    if name not in _ENTRIES:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(sorted(_ENTRIES))}")
    return _ENTRIES[name]


def list_activations(pattern: str = "*", **facts: Any) -> list[str]:
    """Return the names that match a shell pattern, sorted.

    Args:
        pattern: such as ``"*elu"``.
        facts: fields of :class:`Entry` that must have the given value, as ``pointwise=True``.

    Example:
        >>> import qact
        >>> qact.list_activations("x*")
        ['xatlu', 'xgelu', 'xsilu']
        >>> "glu" in qact.list_activations(halves=True)
        True
    """
    for fact in facts:
        if not hasattr(Entry, fact) and fact not in Entry.__dataclass_fields__:
            known = ", ".join(Entry.__dataclass_fields__)
            raise ValueError(f"an entry has no field {fact!r}; it has {known}")
    return sorted(
        name
        for name, found in _ENTRIES.items()
        if fnmatchcase(name, pattern) and all(getattr(found, k) == v for k, v in facts.items())
    )


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
