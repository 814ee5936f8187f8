"""Calibrators by name, each with its paper."""

from __future__ import annotations

from qact.registry import Entry, Registry

CALIBRATORS = Registry("calibrator", Entry, room="qact.calibration")
register, names, entry = CALIBRATORS.register, CALIBRATORS.names, CALIBRATORS.__getitem__
create = CALIBRATORS.create
