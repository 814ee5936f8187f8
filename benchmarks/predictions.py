"""Train each (activation, loss, seed) of the calibration study and store all its predictions.

    python benchmarks/predictions.py digits
    QACT_DATA=DIR python benchmarks/predictions.py cifar10

Logits and embeddings of the training images, of the validation images (clean, and under three
corruptions that the bench does not use), and of the test images under the bench's corruptions, each
with stored statistics (`frozen`) and with those of the batch (`batch-200`). Nothing is fitted or
measured here; `benchmarks/calibration.py` does that. A stopped run goes on where it was.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from qact.bench import Data, Model, Recipe, Shift, Training
from qact.bench.data import Inputs, load_inputs, permutation
from qact.bench.measure.adapt import predict
from qact.bench.recipe.rivals import rival
from qact.bench.store.files import save_tensors
from qact.bench.train.network import train_cell

ADAPTATIONS = ("frozen", "batch-200")
HELD_OUT = ("speckle_noise", "gaussian_blur", "spatter")  # for conformal calibration, not reported
HELD_OUT_SEVERITIES = (1, 3, 5)

LOSSES = ("cross_entropy", "watershed", "triplet")
GRIDS = {  # what a CPU trains in an hour
    "digits": {"relu": LOSSES, "qact": LOSSES, "qact.paper": LOSSES[:1]},
    "cifar10": {"relu": LOSSES, "qact": LOSSES[:2], "qact.paper": LOSSES[:1]},
}
STUDIES = {
    "digits": (Recipe(), None),
    "cifar10": (
        Recipe(
            data=Data("cifar10", limit=6000),
            model=Model("resnet_small", 2.0),
            training=Training(epochs=10, batch=100),
            shift=Shift(severities=(0, 1, 3, 5)),
        ),
        1000,
    ),
}


class Both(nn.Module):
    """Logits and embedding side by side, (N, C + D), so that one pass gives both."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        embedding = self.model.embed(x)
        return torch.cat([self.model.head(embedding), embedding], 1)


def cells(name: str) -> list[tuple[str, str, int]]:
    """(activation, loss, seed), seed by seed, so that a stopped run is balanced."""
    return [(a, x, seed) for seed in range(3) for a, losses in GRIDS[name].items() for x in losses]


def inputs_of(name: str) -> tuple[Inputs, Inputs]:
    """The test images of a study (the first so many), and the validation images in their place."""
    recipe, count = STUDIES[name]
    inputs = load_inputs(recipe.data)
    test = replace(
        inputs,
        test_images=inputs.test_images[:count],
        test_labels=inputs.test_labels[:count],
        _corrupted={},
    )
    raw = (inputs.val[0] * inputs.std + inputs.mean).clamp(0, 1)
    return test, replace(inputs, test_images=raw, test_labels=inputs.val[1], _corrupted={})


def conditions(recipe: Recipe) -> list[tuple[str, str, int]]:
    """(part, corruption, severity) of everything that is predicted."""
    held = [("val", c, s) for c in HELD_OUT for s in HELD_OUT_SEVERITIES]
    test = [("test", *condition) for condition in recipe.shift.conditions()]
    return [("train", "none", 0), ("val", "none", 0), *held, *test]


def predictions(model: nn.Module, recipe: Recipe, parts: dict, seed: int) -> dict[str, Tensor]:
    """Name -> (N, C + D) for every condition and adaptation."""
    found = {}
    for part, corruption, severity in conditions(recipe):
        if part == "train":
            images = parts["test"].train[0]
        else:
            images = parts[part].shifted(corruption, severity, int(part == "val"))
        order = permutation(len(images), seed)
        for adaptation in ADAPTATIONS:
            out = predict(model, images, adaptation, order)
            found[f"{part}/{corruption}/{severity}/{adaptation}"] = out.float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = STUDIES[options.study][0]
    test, val = inputs_of(options.study)
    folder = options.out / options.study
    folder.mkdir(parents=True, exist_ok=True)
    labels = {"train": test.train[1], "val": val.test_labels, "test": test.test_labels}
    save_tensors(folder / "labels.safetensors", labels, {})
    for activation, loss, seed in cells(options.study):
        path = folder / f"{activation}-{loss}-{seed}.safetensors"
        if path.exists():
            continue
        begin = time.perf_counter()
        recipe = replace(base, training=replace(base.training, loss=loss))
        trained = train_cell(
            recipe, rival(activation), seed, test, folder / "cells" / path.stem, lambda n: None
        )
        middle = time.perf_counter()
        found = predictions(Both(trained.model).eval(), recipe, {"test": test, "val": val}, seed)
        about = {
            "val_accuracy": trained.history[-1]["val_accuracy"],
            "train_seconds": round(middle - begin, 1),
            "predict_seconds": round(time.perf_counter() - middle, 1),
            "torch": torch.__version__,
        }
        save_tensors(path, found, {"about": json.dumps(about)})
        print(f"{path.stem:34} {about}", flush=True)


if __name__ == "__main__":
    main()
