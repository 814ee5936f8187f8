"""Activations that know their context: Quantile Activation for PyTorch."""

from qact import functional, levels
from qact.adapt import adapting
from qact.context import Context
from qact.layer import LazyQAct, QAct
from qact.normed import NormedQAct

__version__ = "0.1.0"

__all__ = ["Context", "LazyQAct", "NormedQAct", "QAct", "adapting", "functional", "levels"]
