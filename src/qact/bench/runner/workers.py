"""Cells in this process, beside each other, or on a cluster: the results are the same bits.

Every cell runs with one thread, so neither the number of processes nor that of cores can change a
sum. A cell whose worker was killed begins again, from its last checkpoint where that is in reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qact.bench.data import load_inputs
from qact.bench.errors import CellError, RecipeError
from qact.bench.measure.metrics import Row
from qact.bench.runner.cell import Cell, Outcome, run_cell
from qact.bench.runner.progress import Display
from qact.bench.store.files import make_folder, write_atomically
from qact.bench.train.checkpoint import BEGUN, FINISHED
from qact.integrations.cluster import Cluster, ClusterError, tell, worker

_EVERY = 0.2  # seconds between two messages of a worker

Keep = Callable[[str, list[Row]], None]  # a cell's name, rows


def run_cells(
    cells: list[Cell],
    cluster: Cluster,
    display: Display,
    sizes: dict[str, int],
    devices: tuple[str, ...] = ("cpu",),
    keep: Keep = lambda cell, rows: None,
) -> Generator[tuple[Cell, Outcome | Exception], None, None]:
    """Yield each cell with its outcome, or the error it ended with, in the order of completion.

    Worker ``k`` works on device ``k`` of ``devices``, counted round and round. ``keep`` is called
    with a cell's rows as they come; the outcome has them all once more.
    """
    work = {cell.name: cell.work(sizes) for cell in cells}

    def begun(cell: Cell) -> None:
        if cell.name in work:
            display.start(cell.name, work.pop(cell.name))

    def heard(index: int, what: Any) -> None:
        begun(cells[index])
        if isinstance(what, list):
            keep(cells[index].name, what)
        else:
            display.advance(cells[index].name, *what)

    data = None if cluster.shares_files else load_inputs(cells[0].recipe.data).digest()
    tasks = (_Task(c, devices, data, _files(c.folder) if data else {}) for c in cells)
    gpus = int(devices[0].startswith("cuda"))
    for index, found in cluster.run(_on_worker, tasks, heard=heard, gpus=gpus):
        begun(cells[index])  # it may have failed before its first message
        if isinstance(found, tuple):
            found, files = found
            _write(files, cells[index].folder)
        elif isinstance(found, ClusterError):  # of this one: the others go on
            found = CellError(str(found))
        yield cells[index], found


@dataclass(frozen=True)
class _Task:
    """A cell; for workers that do not see this machine's files, its files and what the data are."""

    cell: Cell
    devices: tuple[str, ...]
    data: str | None
    files: dict[str, bytes]


def _on_worker(task: _Task) -> Outcome | tuple[Outcome, dict[str, bytes]]:
    cell, device = task.cell, task.devices[worker() % len(task.devices)]
    if task.data is None:
        return _run(cell, device)
    if cell.inputs().digest() != task.data:
        raise RecipeError(
            f"data {cell.recipe.data.name!r} are others on a worker than here: give all the same"
        )
    with TemporaryDirectory(prefix="qact-") as folder:
        here = Path(folder)
        _write(task.files, here)
        outcome = _run(replace(cell, folder=here), device)
        return outcome, {k: v for k, v in _files(here).items() if task.files.get(k) != v}


def _files(folder: Path) -> dict[str, bytes]:
    paths = (folder / name for name in (BEGUN, FINISHED))
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def _write(files: dict[str, bytes], folder: Path) -> None:
    make_folder(folder)
    for name, content in files.items():
        write_atomically(folder / name, content)
    if FINISHED in files:
        (folder / BEGUN).unlink(missing_ok=True)


def _run(cell: Cell, device: str) -> Outcome:
    pace = _Pace()
    outcome = run_cell(cell, pace, device, tell)
    pace.flush()
    return outcome


class _Pace:
    """Tells the units of work that were done, now and then: steps may take milliseconds."""

    def __init__(self) -> None:
        self._done, self._stage, self._said = 0, "", time.monotonic()

    def __call__(self, amount: int, stage: str) -> None:
        if stage != self._stage:
            self.flush()
            self._stage = stage
        self._done += amount
        if time.monotonic() - self._said > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Tell what has not been told."""
        if self._done:
            tell((self._done, self._stage))
        self._done, self._said = 0, time.monotonic()
