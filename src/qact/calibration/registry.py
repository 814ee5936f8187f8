"""Calibrators by name, each with its paper."""

from __future__ import annotations

from qact.registry import Entry, Registry

CALIBRATORS = Registry("calibrator", Entry, room="qact.calibration")
register = CALIBRATORS.register
entry = CALIBRATORS.__getitem__
names = CALIBRATORS.names
create = CALIBRATORS.create
