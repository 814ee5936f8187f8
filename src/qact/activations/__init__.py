"""The other activations: one registry, one file per family, each with its paper.

Example:
    >>> import qact, torch
    >>> qact.activation("golu")(torch.tensor([1.0]))
    tensor([0.6922])
"""

from qact.activations import (
    batch,
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
)
from qact.activations.registry import Entry, activation, entry, list_activations, register

__all__ = [
    "Entry",
    "activation",
    "batch",
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
]
