"""Every adaptation method on every stream: accuracy, calibration, time and memory.

    python benchmarks/adaptation.py digits
    QACT_DATA=DIR python benchmarks/adaptation.py cifar10

The study of `qact bench --full`, with ReLU and with QAct, on the networks of the bench (digits) and
on a slim residual network (CIFAR-10: 5,400 images, the recipe that `benchmarks/cifar10.py` found on
validation images). Rows are written as they come, and a stopped run goes on where it was.
`benchmarks/adaptation_table.py` writes the page. With ``--methods lame`` only the rows of these
methods are measured again, and those of the source, which must come out as they are recorded: the
networks are then the same.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from qact.bench import Data, Model, Recipe, Shift, Training, run
from qact.bench.recipe.adaptations import parse_adaptation
from qact.bench.recipe.presets import study
from qact.bench.recipe.rows import KEY
from qact.bench.report.html import write_report
from qact.bench.report.summary import Summary
from qact.bench.runner.progress import Lines

ACTIVATIONS = ("relu", "qact")
STUDIES = {
    "digits": (Recipe(), 256),
    "cifar10": (
        Recipe(
            data=Data("cifar10", limit=6_000),
            model=Model("resnet_small", 1.0),
            training=Training(epochs=8, batch=50, lr=0.01),
        ),
        512,
    ),
}


Rows = dict[tuple[str, ...], dict[str, str]]


def recipe_of(name: str, seeds: int, methods: tuple[str, ...] = ()) -> Recipe:
    """The study alone, without the usual measurements over all severities."""
    recipe, images = STUDIES[name]
    shift, *further = (only(part, methods) for part in study(recipe.shift, images))
    return replace(
        recipe,
        shift=shift,
        further=tuple(further),
        activations=ACTIVATIONS,
        seeds=tuple(range(seeds)),
    )


def only(shift: Shift, methods: tuple[str, ...]) -> Shift:
    """A shift with these methods alone; without names, with all."""
    if not methods:
        return shift
    kept = (name for name in shift.adaptations if parse_adaptation(name).method in methods)
    return replace(shift, adaptations=tuple(kept))


def read(path: Path) -> Rows:
    """Rows by their key, as text."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {tuple(row[name] for name in KEY): row for row in csv.DictReader(file)}


def keep(found: Rows, path: Path, console: Console) -> None:
    """Put rows in the place of those that are recorded, and say how far accuracy has moved."""
    recorded = read(path)
    moved: dict[str, list[float]] = {}
    for key in found.keys() & recorded.keys():
        change = float(found[key]["accuracy"]) - float(recorded[key]["accuracy"])
        moved.setdefault(parse_adaptation(found[key]["adaptation"]).kind, []).append(abs(change))
    for method, changes in sorted(moved.items()):
        console.print(f"{method}: {len(changes)} rows, by up to {100 * max(changes):.2f} points")
    rows = recorded | found
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--methods", nargs="+", default=[], help="measure these again")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/adaptation"))
    options = parser.parse_args()
    folder, console = options.runs / options.study, Console()
    methods = ("source", *options.methods) if options.methods else ()
    results = run(
        recipe_of(options.study, options.seeds, methods),
        folder,
        jobs=options.jobs,
        command=f"python benchmarks/adaptation.py {options.study}",
        display=lambda total: Lines(console, total),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    keep(read(folder / "results.csv"), options.out / f"{options.study}.csv", console)
    console.print(write_report(Summary(results), folder))


if __name__ == "__main__":
    main()
