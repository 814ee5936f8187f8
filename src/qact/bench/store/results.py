"""``results.json`` and ``results.csv``: rows as they come, written atomically, never half-read."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.measure.metrics import COSTS, METRICS, Row
from qact.bench.recipe.recipe import Recipe, network
from qact.bench.recipe.rows import KEY, Key, key_of
from qact.bench.store.files import write_atomically

FORMAT = "qact-bench/1"
_PARTS = {"recipe": dict, "activations": dict, "environment": dict, "cells": dict, "rows": list}


@dataclass
class Results:
    """Everything a bench has found so far.

    Attributes:
        recipe: the recipe of the latest run.
        activations: per name, what it was (``describe``), its paper, and whether it is a control.
        environment: command, versions and machine of the latest run.
        cells: per ``"activation/seed"`` (or ``"activation/loss/seed"``), history and costs.
        rows: one dictionary per measurement; see :func:`qact.bench.measure.metrics.measure`.
    """

    recipe: Recipe
    activations: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def keys(self) -> set[Key]:
        """Return the keys of the rows that exist."""
        return {key_of(row) for row in self.rows}

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add rows of a cell that is not finished yet; rows that exist are kept."""
        present = self.keys()
        self.rows += [row for row in rows if key_of(row) not in present]

    def add(self, rows: Iterable[Row], cell: str, notes: dict[str, Any]) -> None:
        """Add the rows of a cell and what its training took; rows that exist are kept."""
        self.add_rows(rows)
        before = self.cells.get(cell, {}).get("costs", {}).get("predict_ms", {})
        if before and "costs" in notes:  # of adaptations that were measured earlier
            notes["costs"]["predict_ms"] = before | notes["costs"]["predict_ms"]
        self.cells[cell] = notes

    def save_beside(self, folder: Path) -> None:
        """:meth:`save` where others may have been; what would lose rows of theirs is refused.

        Raises:
            RecipeError: ``folder`` holds rows that are not among these.
        """
        if (folder / "results.json").exists():
            lost = load_results(folder).keys() - self.keys()
            if lost:
                raise RecipeError(
                    f"{folder} holds {len(lost)} other measurements, as of "
                    f"{', '.join(map(str, sorted(lost, key=str)[0][:2]))}; choose another --out"
                )
        self.save(folder)

    def save(self, folder: Path) -> None:
        """Write ``results.json`` and ``results.csv``, each atomically."""
        whole = {
            "format": FORMAT,
            "recipe": self.recipe.as_dict(),
            "activations": self.activations,
            "environment": self.environment,
            "cells": self.cells,
        }
        # One row per line: the file can be read, grepped and diffed.
        head = json.dumps(whole, indent=1)[:-2]
        rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in self.rows)
        text = f'{head},\n "rows": [\n  {rows}\n ]\n}}\n'
        write_atomically(folder / "results.json", text.encode())
        write_atomically(folder / "results.csv", _as_csv(self.rows).encode())


def load_results(folder: Path) -> Results:
    """Read ``results.json`` of a bench.

    Raises:
        DamagedFileError: the file cannot be read or lacks a part; it is left as it is.
        FileNotFoundError: there is none.
    """
    if folder.is_file():
        raise DamagedFileError(f"{folder} is a file; a bench is a folder with results.json")
    path = folder / "results.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise DamagedFileError(f"{path} is damaged ({error})") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise DamagedFileError(f"{path} is not in the format {FORMAT!r}")
    for part, kind in _PARTS.items():
        if not isinstance(whole.get(part), kind):
            raise DamagedFileError(f"{path} has no {part!r} that could be read")
    for index, row in enumerate(whole["rows"]):
        _check_row(path, index, row)
        row.setdefault("images", None)
    try:
        recipe = Recipe.from_dict(whole["recipe"])
    except RecipeError as error:
        raise DamagedFileError(f"{path}: {error}") from error
    if "losses" not in whole["recipe"]:  # written before the loss could be compared
        named = {name.rpartition("/"): notes for name, notes in whole["cells"].items()}
        loss = recipe.training.loss
        whole["cells"] = {f"{network(k[0], loss)}/{k[2]}": notes for k, notes in named.items()}
    return Results(recipe, *(whole[part] for part in list(_PARTS)[1:]))


def _check_row(path: Path, index: int, row: object) -> None:
    named = [k for k in KEY if k != "images"]  # older rows are of all of them
    missing = [k for k in (*named, *METRICS, "bins") if not isinstance(row, dict) or k not in row]
    if missing:
        raise DamagedFileError(f"{path}: row {index} lacks {', '.join(missing)}")


def _as_csv(rows: list[Row]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, (*KEY, "n", *METRICS, *COSTS), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


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
