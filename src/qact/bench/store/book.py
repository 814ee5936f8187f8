"""Results that are written while cells are at work, so that a kill costs seconds."""

from __future__ import annotations

import time
from pathlib import Path

from qact.bench.measure.metrics import Row
from qact.bench.store.results import Results

_EVERY = 10.0  # seconds between two writings of what the cells at work have found


class Book:
    """Results that are written as they come: with every finished cell, and now and then between."""

    def __init__(self, results: Results, folder: Path) -> None:
        self.results, self.folder = results, folder
        self._before, self._begin = results.environment["seconds"], time.monotonic()
        self._waiting: list[Row] = []
        self._saved = self._begin

    def keep(self, cell: str, rows: list[Row]) -> None:
        """Take rows of a cell that is at work."""
        self._waiting += rows
        if time.monotonic() - self._saved >= _EVERY:
            self.save()

    def save(self) -> None:
        """Write everything."""
        self.results.add_rows(self._waiting)
        self._waiting.clear()
        spent = time.monotonic() - self._begin
        self.results.environment["seconds"] = round(self._before + spent, 1)
        self.results.save(self.folder)
        self._saved = time.monotonic()
