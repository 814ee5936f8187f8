"""The adaptation methods by name, with the paper and the family of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from qact import checks
from qact import registry as _registry
from qact.adapt.method import Method
from qact.surgery import Flags

Kind = TypeVar("Kind", bound=type[Method])
LEARNS = ("nothing", "statistics", "outputs", "parameters")


@dataclass(frozen=True)
class Entry(_registry.Entry):
    """What the registry knows of a method.

    Args:
        name: as in :func:`create`.
        make: the class.
        paper: where it comes from, with the equation.
        learns: what it changes: ``"nothing"``, ``"statistics"``, ``"outputs"`` or ``"parameters"``.
    """

    learns: str

    def options(self) -> dict[str, Any]:
        """Its options with their defaults."""
        return options_of(self.make)  # type: ignore[arg-type]


METHODS = _registry.Registry("method", Entry, room="qact.adapt")


def register(name: str, *, paper: str, learns: str) -> Callable[[Kind], Kind]:
    """Enter the decorated :class:`Method` as ``name``; a name that is taken is refused.

    A file in ``qact/adapt`` is all that a new method takes.

    Raises:
        ValueError: the name is taken, ``paper`` is empty, or ``learns`` is unknown.
        TypeError: what is decorated is no method.

    Example:
        >>> from qact.adapt import Method, register
        >>> @register("tent", paper="mine", learns="parameters")
        ... class Again(Method): ...
        Traceback (most recent call last):
        ValueError: a method named 'tent' is registered already
    """
    checks.choice("learns", learns, LEARNS)
    enter = METHODS.register(name, paper=paper, learns=learns)

    def entered(kind: Kind) -> Kind:
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise TypeError(f"{kind!r} must be a class derived from qact.adapt.Method")
        enter(kind).name = name
        return kind

    return entered


def entry(name: str) -> Entry:
    """Return what is known of a method, or say which ones there are."""
    return METHODS[name]


def methods(pattern: str = "*", *, learns: str | None = None) -> list[str]:
    """Return the names that match a shell pattern, sorted; ``learns`` picks a family.

    Raises:
        ValueError: there is no such family.

    Example:
        >>> import qact
        >>> qact.adapt.methods("r*")
        ['roid', 'rotta']
        >>> qact.adapt.methods(learns="outputs")
        ['lame', 't3a']
    """
    if learns is None:
        return METHODS.names(pattern)
    return METHODS.names(pattern, learns=checks.choice("learns", learns, LEARNS))


names = methods  # the verb of every room


def create(name: str | type[Method], model: nn.Module, **options: Any) -> Method:
    """Return a method that adapts ``model``; call it on test batches instead of the model.

    Args:
        name: a registered name, or a class derived from :class:`Method`.
        model: a classifier that gives logits (N, C). It is copied, never changed, unless
            ``inplace=True``.
        options: of the method. All take ``episodic`` (start anew with every batch) and ``inplace``.

    Raises:
        ValueError: the name is unknown, an option's value is not valid, or the model has no layer
            that the method could adapt.
        TypeError: ``name`` or ``model`` is of the wrong type, or there is no such option.

    Example:
        >>> import torch, qact
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> with qact.adapt.create("tent", model.eval(), lr=1e-3) as adapted:
        ...     for x in torch.randn(5, 16, 3):
        ...         logits = adapted(x)
        >>> adapted.mode
        'continual'
    """
    if isinstance(name, str):
        kind: Any = entry(name).make
    elif isinstance(name, type) and issubclass(name, Method):
        kind = name
    else:
        raise TypeError(f"name={name!r} must be a string or a class derived from Method")
    known = options_of(kind)
    for option in sorted(set(options) - set(known)):
        raise TypeError(f"{kind.name!r} has no option {option!r}; it has {', '.join(known)}")
    before = Flags.of(model) if isinstance(model, nn.Module) else None
    try:
        with torch.inference_mode(False):  # tensors made in that mode could not be adapted
            method = kind(model, **options)
    except BaseException:
        if before is not None and options.get("inplace"):
            before.restore(model)
        raise
    method.options = known | options
    return method


def options_of(kind: type[Method]) -> dict[str, Any]:
    """The keyword options of a class and of those it derives from, with their defaults."""
    found: dict[str, Any] = {}
    for parent in kind.__mro__:
        if issubclass(parent, Method) and "__init__" in vars(parent):
            parameters = inspect.signature(parent.__init__).parameters.values()
            named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
            found = {p.name: p.default for p in named} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found
