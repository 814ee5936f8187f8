"""Taps: read, change and explain what happens inside a network."""

from qact.taps.block import Changing, Observing, Reading, Tap, Visit, tap
from qact.taps.explain import DriftReport, Effect, explain_drift
from qact.taps.observe import Observer
from qact.taps.patch import patch
from qact.taps.place import Place, places
from qact.taps.probes import Probe, Probed, probe, probed
from qact.taps.sparsity import Point, Sparsified, accuracy_sparsity, sparsify, sparsity_curve
from qact.taps.steering import Condition, Direction, delta, difference, fingerprint, steer

__all__ = [
    "Changing",
    "Condition",
    "Direction",
    "DriftReport",
    "Effect",
    "Observer",
    "Observing",
    "Place",
    "Point",
    "Probe",
    "Probed",
    "Reading",
    "Sparsified",
    "Tap",
    "Visit",
    "accuracy_sparsity",
    "delta",
    "difference",
    "explain_drift",
    "fingerprint",
    "patch",
    "places",
    "probe",
    "probed",
    "sparsify",
    "sparsity_curve",
    "steer",
    "tap",
]
