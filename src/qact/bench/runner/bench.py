"""Run the grid: what is missing is trained and measured, what is there is left alone."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qact.bench.data import PARTS, Inputs, changed
from qact.bench.errors import BenchError, CellError, RecipeError
from qact.bench.measure.evaluate import checked_inputs
from qact.bench.recipe.recipe import Recipe
from qact.bench.runner.cell import Cell, Outcome
from qact.bench.runner.grid import missing, opened
from qact.bench.runner.progress import Display
from qact.bench.runner.workers import run_cells
from qact.bench.store.files import alone, make_folder
from qact.bench.store.results import Book, Results
from qact.bench.train.checkpoint import val_scores
from qact.integrations.cluster import using


def _silent(total: int) -> Display:
    return Display()


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    jobs: int = 1,
    devices: tuple[str, ...] = ("cpu",),
    imports: tuple[str, ...] = (),
    on: Any = None,
    command: str = "qact.bench.run(...)",
    display: Callable[[int], Display] = _silent,
) -> Results:
    """Run what ``out`` lacks of a recipe and return all its results.

    A stopped run goes on where it was: what is measured is left alone, a network that was begun
    continues from its last epoch. A recipe with more activations, losses, seeds, corruptions,
    adaptations or streams than before adds only what is new.

    Args:
        recipe: the grid.
        out: folder for ``results.json``, ``results.csv`` and the trained weights.
        jobs: processes side by side, one thread each; the numbers do not depend on it.
        devices: where; the processes take them in turn.
        imports: modules to import first, which register rivals.
        on: a cluster of :func:`qact.cluster.connect`, or its address, instead of ``jobs``. Its
            workers need the data and ``imports``, and see nothing of ``out``: trained weights and
            rows come back to this process, which writes them.
        command: what the report should say to reproduce the numbers.
        display: ``display(total)`` returns what shows the progress over ``total`` units of work.

    Raises:
        RecipeError: the recipe is impossible, ``out`` holds another one, or the data has changed.
        DamagedFileError: a file in ``out`` is damaged.
        BusyError: another run is at work in ``out``.
        CellError: some cells failed; the rows of the others are written.
        ClusterError: ``on`` is no cluster, nobody answers, or workers have other versions.
    """
    if jobs < 1:
        raise RecipeError(f"jobs must be at least 1, got {jobs!r}")
    for module in imports:
        importlib.import_module(module)
    folder = Path(out)
    make_folder(folder)
    with alone(folder):
        results = opened(recipe, folder)
        cells = missing(recipe, results, folder, imports)
        if cells:
            inputs = checked_inputs(recipe)
            _refuse_other_data(recipe, inputs, results.environment, folder)
            sizes = inputs.sizes()
            with (
                using(_here(min(jobs, len(cells))) if on is None else on) as cluster,
                display(sum(cell.work(sizes) for cell in cells)) as shown,
            ):
                results.environment = {
                    **_environment(command, jobs, devices, inputs, results.environment),
                    **({} if on is None else {"on": cluster.name}),
                }
                book = Book(results, folder)
                found = run_cells(cells, cluster, shown, sizes, devices, book.keep)
                with closing(found) as outcomes:
                    _collect(book, outcomes, shown)
        results.save(folder)
    return results


def _refuse_other_data(
    recipe: Recipe, inputs: Inputs, before: dict[str, Any], folder: Path
) -> None:
    """Refuse to put numbers of other images beside those that a folder has."""
    if changed(before.get("data", {}), inputs.print_of(*PARTS)):
        raise RecipeError(
            f"data {recipe.data.name!r} has other images or labels than when {folder} was "
            "measured; choose another --out"
        )


def _here(jobs: int) -> str:
    return "here" if jobs == 1 else f"processes:{jobs}"


def _collect(
    book: Book, outcomes: Iterable[tuple[Cell, Outcome | Exception]], shown: Display
) -> None:
    """Run cells and write each one's rows as soon as it is finished."""
    failed: list[tuple[Cell, Exception]] = []
    for cell, outcome in outcomes:
        if isinstance(outcome, Exception):
            failed.append((cell, outcome))
            shown.done(cell.name, f"failed: {outcome}")
        else:
            book.results.add(outcome.rows, cell.name, outcome.notes)
            shown.done(cell.name, _sentence(outcome))
        book.save()
    if failed:
        raise _as_one(failed)


def _as_one(failed: list[tuple[Cell, Exception]]) -> BenchError:
    """Return one error for all cells that failed."""
    if len(failed) == 1 and isinstance(failed[0][1], BenchError):
        return failed[0][1]
    listed = "; ".join(f"{cell.name}: {type(e).__name__}: {e}" for cell, e in failed)
    error = CellError(f"{len(failed)} cells failed, the others are written. {listed}")
    error.__cause__ = failed[0][1]
    return error


def _sentence(outcome: Outcome) -> str:
    notes = outcome.notes
    took = f"trained {notes['train_seconds']:.1f} s, measured {notes['measure_seconds']:.1f} s"
    scores = val_scores(notes["history"])
    return f"validation {100 * scores[-1]:.1f}%, {took}" if scores else took


def _environment(
    command: str, jobs: int, devices: tuple[str, ...], inputs: Inputs, before: dict[str, Any]
) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("qact", "torch", "numpy", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {
        "command": command,
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "jobs": jobs,
        "devices": list(devices),
        "threads_per_job": 1,
        "images": inputs.sizes(),
        "data": inputs.print_of(*PARTS),
        "shape": list(inputs.test_images.shape[1:]),
        "seconds": before.get("seconds", 0.0),
    }
