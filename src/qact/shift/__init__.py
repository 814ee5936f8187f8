"""Distribution shift: data sets and the corruptions of CIFAR-10-C."""

from qact.shift.data import Splits, load
from qact.shift.registry import corrupt, corruptions

__all__ = ["Splits", "corrupt", "corruptions", "load"]
