"""Every adaptation method on every stream: accuracy, calibration, time and memory.

    python benchmarks/adaptation.py digits
    QACT_DATA=DIR python benchmarks/adaptation.py cifar10

The study of `qact bench --full`, with ReLU and with QAct, on the networks of the bench (digits) and
on a slim residual network (CIFAR-10: 5,400 images, the recipe that `benchmarks/cifar10.py` found on
validation images). Rows are written as they come, and a stopped run goes on where it was.
`benchmarks/adaptation_table.py` writes the page.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from qact.bench import Data, Model, Recipe, Training, run
from qact.bench.recipe.study import study
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


def recipe_of(name: str, seeds: int) -> Recipe:
    """The study alone, without the usual measurements over all severities."""
    recipe, images = STUDIES[name]
    shift, *further = study(recipe.shift, images)
    return replace(
        recipe,
        shift=shift,
        further=tuple(further),
        activations=ACTIVATIONS,
        seeds=tuple(range(seeds)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/adaptation"))
    options = parser.parse_args()
    folder, console = options.runs / options.study, Console()
    results = run(
        recipe_of(options.study, options.seeds),
        folder,
        jobs=options.jobs,
        command=f"python benchmarks/adaptation.py {options.study}",
        display=lambda total: Lines(console, total),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    table = (folder / "results.csv").read_text(encoding="utf-8")
    (options.out / f"{options.study}.csv").write_text(table, encoding="utf-8")
    console.print(write_report(Summary(results), folder))


if __name__ == "__main__":
    main()
