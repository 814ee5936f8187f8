"""Activations that know their context: Quantile Activation for PyTorch.

Every public name is imported when it is first asked for: ``import qact`` costs nothing, and rooms
like ``qact.shift`` and ``qact.losses`` need no import of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qact import _aliases

if TYPE_CHECKING:
    from qact import (
        activations,
        adapt,
        attention,
        calibration,
        corruptions,
        datasets,
        functional,
        losses,
        models,
        monitor,
        nn,
        scores,
        shift,
        taps,
        weights,
    )
    from qact.activations import activation, list_activations
    from qact.activations.bounds import certify
    from qact.activations.initialize import init_
    from qact.adapt import adapting, drift
    from qact.context import Context
    from qact.conversion import convert, convert_, layer, summary
    from qact.integrations import cluster, lightning, sklearn
    from qact.kernels.fast_export import fast_export
    from qact.nn.distributed import SyncQAct, convert_sync_
    from qact.nn.layer import QAct
    from qact.nn.lazy import LazyQAct
    from qact.nn.normed import NormedQAct
    from qact.rank import levels
    from qact.recalibrate import recalibrated, record
    from qact.statistics.update import update_stats
    from qact.taps import explain_drift, sparsify, steer, tap

__version__ = "0.1.0"

# Where each name comes from; a module is its own home.
_HOMES = {
    "Context": "context",
    "LazyQAct": "nn.lazy",
    "NormedQAct": "nn.normed",
    "QAct": "nn.layer",
    "SyncQAct": "nn.distributed",
    "activation": "activations",
    "adapting": "adapt",
    "certify": "activations.bounds",
    "convert": "conversion",
    "convert_": "conversion",
    "convert_sync_": "nn.distributed",
    "drift": "adapt",
    "explain_drift": "taps",
    "fast_export": "kernels.fast_export",
    "init_": "activations.initialize",
    "layer": "conversion",
    "list_activations": "activations",
    "recalibrated": "recalibrate",
    "record": "recalibrate",
    "sparsify": "taps",
    "steer": "taps",
    "summary": "conversion",
    "tap": "taps",
    "update_stats": "statistics.update",
}
_MODULES = {
    "cluster": "integrations.cluster",
    "levels": "rank.levels",
    "lightning": "integrations.lightning",
    "sklearn": "integrations.sklearn",
    **{
        name: name
        for name in (
            "activations",
            "adapt",
            "attention",
            "calibration",
            "corruptions",
            "datasets",
            "functional",
            "losses",
            "models",
            "monitor",
            "nn",
            "scores",
            "shift",
            "taps",
            "weights",
        )
    },
}

__all__ = [
    "Context",
    "LazyQAct",
    "NormedQAct",
    "QAct",
    "SyncQAct",
    "activation",
    "activations",
    "adapt",
    "adapting",
    "attention",
    "calibration",
    "certify",
    "cluster",
    "convert",
    "convert_",
    "convert_sync_",
    "corruptions",
    "datasets",
    "drift",
    "explain_drift",
    "fast_export",
    "functional",
    "init_",
    "layer",
    "levels",
    "lightning",
    "list_activations",
    "losses",
    "models",
    "monitor",
    "nn",
    "recalibrated",
    "record",
    "scores",
    "shift",
    "sklearn",
    "sparsify",
    "steer",
    "summary",
    "tap",
    "taps",
    "update_stats",
    "weights",
]

_aliases.install()


def __getattr__(name: str) -> object:
    """Import a public name on first use, and keep it."""
    if name in _HOMES:
        value = getattr(import_module(f"qact.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"qact.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'qact' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
