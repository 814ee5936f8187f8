"""The other activations: one registry, one file per family, each with its paper.

A family is a module, and any of them is an attribute: ``qact.activations.sparse.soft_threshold``.

Example:
    >>> import qact, torch
    >>> qact.activation("golu")(torch.tensor([1.0]))
    tensor([0.6922])
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from qact.activations.registry import (
    Entry,
    activation,
    create,
    entry,
    list_activations,
    names,
    register,
)

__all__ = ["Entry", "activation", "create", "entry", "list_activations", "names", "register"]


def __getattr__(name: str) -> ModuleType:
    """Import a family when it is first asked for."""
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
