"""Adaptation at test time: one interface, one file per method, each from its paper.

Example:
    >>> import qact
    >>> qact.adapt.methods(learns="statistics")
    ['alpha_bn', 'aqr', 'batch', 'mixed', 'prior', 'safe']
"""

from qact.adapt import (
    aqr,
    batch,
    cotta,
    delta,
    eata,
    lame,
    note,
    prior,
    pseudo_label,
    roid,
    rotta,
    safe,
    sar,
    source,
    t3a,
    tent,
)
from qact.adapt.contexts import adapting
from qact.adapt.drifting import Drift, LayerDrift, drift
from qact.adapt.method import Method
from qact.adapt.registry import Entry, create, entry, methods, register

__all__ = [
    "Drift",
    "Entry",
    "LayerDrift",
    "Method",
    "adapting",
    "aqr",
    "batch",
    "cotta",
    "create",
    "delta",
    "drift",
    "eata",
    "entry",
    "lame",
    "methods",
    "note",
    "prior",
    "pseudo_label",
    "register",
    "roid",
    "rotta",
    "safe",
    "sar",
    "source",
    "t3a",
    "tent",
]
