"""Taps: read, change and explain what happens inside a network."""

from qact.taps.block import Changing, Observing, Reading, Tap, Visit, tap
from qact.taps.explain import DriftReport, Effect, explain_drift
from qact.taps.observe import Observer
from qact.taps.patch import patch
from qact.taps.place import Place, places

__all__ = [
    "Changing",
    "DriftReport",
    "Effect",
    "Observer",
    "Observing",
    "Place",
    "Reading",
    "Tap",
    "Visit",
    "explain_drift",
    "patch",
    "places",
    "tap",
]
