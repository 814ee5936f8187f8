"""Attention with any normaliser: maps of `qact.weights`, and forms in quadratic or linear time.

``qact.attention.Attention(embed_dim, num_heads, "entmax15")``; :func:`names` lists the forms. A
form has weights (:meth:`Form.weights`, the definition) and an output; where its time is linear in
the tokens the two agree, and memory does not grow with their square. :func:`diagnose` says what
heads do.
"""

from qact.attention.diagnostics import Diagnosis, diagnose, dispersion_bound
from qact.attention.factored import Linear
from qact.attention.forgetting import Forgetting
from qact.attention.form import Form
from qact.attention.landmarks import SOFT, Agent
from qact.attention.length_scaled import LSSA, Selective
from qact.attention.linear import (
    CosFormer,
    Elu,
    Favor,
    Hedgehog,
    RankAugmented,
    TaylorShift,
)
from qact.attention.module import Attention, form, normalisers
from qact.attention.normaliser import Normaliser
from qact.attention.quadratic import AdaptiveSparse, Gated, Mapped, ReLA, Scores, Shaped
from qact.attention.registry import Entry, create, entry, names, register
from qact.attention.signed import MALA, Fourier, Galerkin, InLine

__all__ = [
    "LSSA",
    "MALA",
    "SOFT",
    "AdaptiveSparse",
    "Agent",
    "Attention",
    "CosFormer",
    "Diagnosis",
    "Elu",
    "Entry",
    "Favor",
    "Forgetting",
    "Form",
    "Fourier",
    "Galerkin",
    "Gated",
    "Hedgehog",
    "InLine",
    "Linear",
    "Mapped",
    "Normaliser",
    "RankAugmented",
    "ReLA",
    "Scores",
    "Selective",
    "Shaped",
    "TaylorShift",
    "create",
    "diagnose",
    "dispersion_bound",
    "entry",
    "form",
    "names",
    "normalisers",
    "register",
]
