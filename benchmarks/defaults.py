"""How the defaults of `QAct` were chosen: validation digits under corruptions kept for validation.

    python benchmarks/defaults.py --seeds 2

Every option is changed alone from a start, the best of the first trials; the change with the best
mean accuracy over the three adaptations is taken into the defaults. The images are the validation
part of the digits bench, the corruptions three of the four hold-out ones (the fourth, saturate,
leaves grey images alone), severities 1 to 5: nothing that the bench reports is looked at.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import qact
from qact.bench import Recipe, Rival
from qact.bench.data import Inputs, load_inputs, permutation
from qact.bench.measure.adapt import predict
from qact.bench.train.network import train_cell
from qact.calibration import accuracy, calibration_error

CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter")
ADAPTATIONS = ("frozen", "batch-99", "batch-16")
START = {"levels": "relu", "grounded": False, "bandwidth": "0.2std", "gradient": "full"}
CHANGES = [
    {},
    {"grounded": True},
    {"gradient": "density"},
    {"bandwidth": "scott"},
    {"bandwidth": "0.1std"},
    {"bandwidth": "0.4std"},
    {"levels": "gelu"},
    {"levels": "silu"},
    {"levels": "normal"},
    {"levels": "uniform"},
    {"levels": "table"},
    {"levels": "relu", "affine": False},
]


def rivals() -> list[Rival]:
    found = [Rival("BatchNorm + ReLU", lambda channels: nn.ReLU(), "control")]
    for change in CHANGES:
        options = START | change
        name = ", ".join(f"{k}={v}" for k, v in change.items()) or "start"
        found.append(Rival(name, lambda c, o=options: qact.QAct(c, **o), "", False))
    return found


def validation(recipe: Recipe) -> Inputs:
    """The bench's inputs with the validation images in the place of the test images."""
    inputs = load_inputs(recipe.data)
    images, labels = inputs.val
    raw = (images * inputs.std + inputs.mean).clamp(0, 1)
    return replace(inputs, test_images=raw, test_labels=labels, _corrupted={})


def measure(recipe: Recipe, rival: Rival, seed: int, inputs: Inputs) -> dict[str, list[float]]:
    """Mean accuracy and calibration error (percent) under shift, per adaptation."""
    with tempfile.TemporaryDirectory() as folder:
        model = train_cell(recipe, rival, seed, inputs, Path(folder), lambda n: None).model
    order = permutation(len(inputs.test_labels), seed)
    result = {}
    for adaptation in ADAPTATIONS:
        scores = []
        for corruption in CORRUPTIONS:
            for severity in range(1, 6):
                images = inputs.shifted(corruption, severity, 1)
                probs = predict(model, images, adaptation, order).double().softmax(1)
                error = calibration_error(probs, inputs.test_labels)
                scores.append((100 * accuracy(probs, inputs.test_labels), 100 * error))
        result[adaptation] = [statistics.mean(column) for column in zip(*scores, strict=True)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/defaults.json"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe()
    inputs = validation(recipe)
    rows: dict[str, list] = {}
    print(f"{'accuracy / ECE, % (mean of seeds)':34}" + "".join(f"{a:>16}" for a in ADAPTATIONS))
    for rival in rivals():
        runs = [measure(recipe, rival, seed, inputs) for seed in range(options.seeds)]
        rows[rival.name] = runs
        means = [[statistics.mean(r[a][i] for r in runs) for i in (0, 1)] for a in ADAPTATIONS]
        cells = "".join(f"{acc:9.2f} /{ece:5.2f}" for acc, ece in means)
        print(f"{rival.name:34}{cells}", flush=True)
        about = {
            "command": f"python benchmarks/defaults.py --seeds {options.seeds}",
            "torch": torch.__version__,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(about | {"seeds": options.seeds, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
