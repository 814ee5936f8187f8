"""Adaptation at test time: one interface, one file per method, each from its paper.

Example:
    >>> import qact
    >>> qact.adapt.methods(learns="statistics")
    ['alpha_bn', 'aqr', 'batch', 'mixed', 'prior', 'safe']
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from qact.adapt.drifting import drift
from qact.adapt.method import Method
from qact.adapt.registry import Entry, create, entry, methods, names, register
from qact.statistics import Drift, LayerDrift, adapting

__all__ = [
    "Drift",
    "Entry",
    "LayerDrift",
    "Method",
    "adapting",
    "create",
    "drift",
    "entry",
    "methods",
    "names",
    "register",
]


def __getattr__(name: str) -> ModuleType:
    """Import the file of a method when it is first asked for: ``qact.adapt.tent``."""
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
