"""Activations that know their context: Quantile Activation for PyTorch."""

from qact import adapt, functional, levels
from qact.activations import activation, list_activations
from qact.adapt import adapting, drift
from qact.context import Context
from qact.convert import convert, convert_, layer, summary
from qact.distributed import SyncQAct, convert_sync_
from qact.initialize import init_
from qact.layer import QAct
from qact.lazy import LazyQAct
from qact.normed import NormedQAct
from qact.recalibrate import recalibrated, record

__version__ = "0.1.0"

__all__ = [
    "Context",
    "LazyQAct",
    "NormedQAct",
    "QAct",
    "SyncQAct",
    "activation",
    "adapt",
    "adapting",
    "convert",
    "convert_",
    "convert_sync_",
    "drift",
    "functional",
    "init_",
    "layer",
    "levels",
    "list_activations",
    "recalibrated",
    "record",
    "summary",
]
