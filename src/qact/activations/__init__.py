"""The other activations: one registry, one file per family, each with its paper.

Example:
    >>> import qact, torch
    >>> qact.activation("golu")(torch.tensor([1.0]))
    tensor([0.6922])
"""

from qact.activations import (
    batch,
    bounded,
    expanded,
    gated,
    mixed,
    parametric,
    piecewise,
    polynomial,
    quantile,
    rational,
    rectified,
    smooth,
    sparse,
    standard,
    transport,
)
from qact.activations.registry import Entry, activation, entry, list_activations, register

__all__ = [
    "Entry",
    "activation",
    "batch",
    "bounded",
    "entry",
    "expanded",
    "gated",
    "list_activations",
    "mixed",
    "parametric",
    "piecewise",
    "polynomial",
    "quantile",
    "rational",
    "rectified",
    "register",
    "smooth",
    "sparse",
    "standard",
    "transport",
]
