"""Quantile Activation itself, as an entry among the others."""

from __future__ import annotations

from typing import Any

from qact.activations.registry import register
from qact.layer import QAct
from qact.normed import PaperQAct

_PAPER = "Challa et al. 2024, arXiv 2405.11573"


@register(
    "qact.paper",
    paper=f"{_PAPER}, as published",
    formula="BatchNorm, floor(101 F(x)) / 101, BatchNorm",
    parameters=("norm_in.weight", "norm_in.bias", "norm_out.weight", "norm_out.bias"),
    pointwise=False,
    needs_features=True,
    control=False,
)
def paper(num_features: int, **options: Any) -> PaperQAct:
    """:meth:`qact.QAct.paper`."""
    return QAct.paper(num_features, **options)


@register(
    "qact",
    paper=f"{_PAPER}, our defaults",
    formula="max(0, w Phi^-1(F(x)) + b)",
    parameters=("weight", "bias"),
    pointwise=False,
    needs_features=True,
    control=False,
)
def layer(num_features: int, **options: Any) -> QAct:
    """:class:`qact.QAct`."""
    return QAct(num_features, **options)
