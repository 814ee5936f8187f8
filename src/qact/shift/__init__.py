"""Distribution shift: data sets and the corruptions of CIFAR-10-C, and streams of them."""

from qact.shift import streams
from qact.shift.data import Splits, load
from qact.shift.registry import corrupt, corruptions

__all__ = ["Splits", "corrupt", "corruptions", "load", "streams"]
