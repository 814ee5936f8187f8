"""Taps: read, change and explain what happens inside a network."""

from qact.taps.block import Changing, Observing, Reading, Tap, Visit, tap
from qact.taps.observe import Observer
from qact.taps.place import Place, places

__all__ = [
    "Changing",
    "Observer",
    "Observing",
    "Place",
    "Reading",
    "Tap",
    "Visit",
    "places",
    "tap",
]
