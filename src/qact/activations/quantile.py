"""Quantile Activation itself, as an entry among the others."""

from __future__ import annotations

from qact.activations.registry import register
from qact.nn.layer import QAct
from qact.nn.normed import PaperQAct

_PAPER = "Challa et al. 2024, arXiv 2405.11573"

register(
    "qact.paper",
    paper=f"{_PAPER}, as published",
    formula="BatchNorm, floor(101 F(x)) / 101, BatchNorm",
    family="quantile",
    parameters=("norm_in.weight", "norm_in.bias", "norm_out.weight", "norm_out.bias"),
    pointwise=False,
    needs_features=True,
    control=False,
)(PaperQAct)

register(
    "qact",
    paper=f"{_PAPER}, our defaults",
    formula="max(0, w Phi^-1(F(x)) + b)",
    family="quantile",
    parameters=("weight", "bias"),
    pointwise=False,
    needs_features=True,
    control=False,
)(QAct)
