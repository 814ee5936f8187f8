"""The paper's comparison with its controls: eight networks on three data sets, plain and AugMix.

    QACT_DATA=DIR python benchmarks/shifted.py

A slim residual network (`resnet_small`) on 10,800 images of CIFAR-10, Fashion-MNIST and CIFAR-100,
with and without AugMix, three seeds. The learning rate is chosen for ReLU on validation images, for
each data set. Every network is measured on 2,000 test images, clean and under the fifteen standard
corruptions, frozen and with the statistics of i.i.d. test batches. Seed after seed, so that what is
there is always balanced; the same command goes on where it was stopped.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from qact.bench import Data, Model, Recipe, Shift, Training, run
from qact.bench.data import load_inputs
from qact.bench.errors import CellError
from qact.bench.recipe.rivals import rival
from qact.bench.runner.progress import Lines
from qact.bench.train.network import train_cell
from qact.shift import corruptions

DATA = ("cifar10", "fashion_mnist", "cifar100")
AUGMENTATIONS = {"plain": "none", "augmix": "crop_flip_augmix"}
EVERYWHERE = ("relu", "gelu", "selu", "prelu", "qact.paper", "qact")
PLACED = ("qact.paper", "qact")  # also where the paper's code has them, ReLU elsewhere
RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)
RECIPE = Recipe(
    model=Model("resnet_small"),
    training=Training(epochs=10, batch=50),
    shift=Shift(
        corruptions=corruptions("standard"),
        severities=(0, 3, 5),
        adaptations=("frozen", "batch-200"),
    ),
)


def images_of(name: str) -> Data:
    """10,800 images to train on, 1,200 to choose on, 2,000 to test on."""
    return Data(name, limit=12_000, test_limit=2_000)


def chosen(name: str, folder: Path) -> float:
    """Return the learning rate with which ReLU does best on validation images (seed 0, plain)."""
    path = folder / "rates.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if name not in known:
        recipe, known[name] = replace(RECIPE, data=images_of(name)), {}
        for rate in RATES:
            tried = replace(recipe, training=replace(recipe.training, lr=rate))
            inputs = load_inputs(recipe.data)
            with tempfile.TemporaryDirectory() as place:
                cell = train_cell(tried, rival("relu"), 0, inputs, Path(place), lambda n: None)
            known[name][str(rate)] = cell.history[-1]["val_accuracy"]
            print(f"{name}, lr {rate:g}: {known[name][str(rate)]:.4f}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=1))
    return float(max(known[name], key=lambda rate: known[name][rate]))


def studies(seeds: tuple[int, ...], out: Path) -> Iterator[tuple[str, Recipe]]:
    """Yield the folder's name and the recipe of every bench, data set by data set."""
    for name in DATA:
        rate = chosen(name, out)
        for label, augmentation in AUGMENTATIONS.items():
            training = replace(RECIPE.training, lr=rate, augmentation=augmentation)
            recipe = replace(RECIPE, data=images_of(name), training=training, seeds=seeds)
            yield f"{name}-{label}", replace(recipe, activations=EVERYWHERE)
            placed = replace(recipe, model=replace(recipe.model, placement="paper"))
            yield f"{name}-{label}-paper", replace(placed, activations=PLACED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/shifted"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/shifted"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, command = Console(), "python benchmarks/shifted.py"
    for count in range(1, len(SEEDS) + 1):
        for name, recipe in studies(SEEDS[:count], options.out):
            console.rule(f"{name}, {count} of {len(SEEDS)} seeds")
            folder = options.runs / name
            try:
                run(recipe, folder, command=command, display=lambda n: Lines(console, n))
            except CellError as error:
                print(error)
            (options.out / f"{name}.csv").write_text((folder / "results.csv").read_text())


if __name__ == "__main__":
    main()
