"""Drift of a served model, seen in its contexts: windows, alarms, a store, a report.

Example:
    >>> import qact
    >>> qact.monitor.names()
    ['adwin', 'cusum', 'martingale', 'window']
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qact.monitor.accuracy import estimate
    from qact.monitor.detectors import Detector, create, names, register
    from qact.monitor.guard import Guard
    from qact.monitor.monitor import Monitor
    from qact.monitor.parquet import StoreError
    from qact.monitor.recording import record
    from qact.monitor.reference import Reference, Verdict
    from qact.monitor.store import Store
    from qact.monitor.suggestion import Suggestion, suggest
    from qact.monitor.window import Window, total

# Imported when first asked for: the store works without torch.
_HOMES = {
    "Detector": "detectors",
    "Guard": "guard",
    "Monitor": "monitor",
    "Reference": "reference",
    "Store": "store",
    "StoreError": "rows",
    "Suggestion": "suggestion",
    "Verdict": "reference",
    "Window": "window",
    "create": "detectors",
    "estimate": "accuracy",
    "names": "detectors",
    "record": "recording",
    "register": "detectors",
    "suggest": "suggestion",
    "total": "window",
}

__all__ = [
    "Detector",
    "Guard",
    "Monitor",
    "Reference",
    "Store",
    "StoreError",
    "Suggestion",
    "Verdict",
    "Window",
    "create",
    "estimate",
    "names",
    "record",
    "register",
    "suggest",
    "total",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
