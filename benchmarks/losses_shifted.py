"""Every loss of `qact.losses` under shift: one recipe, ReLU and QAct, frozen and test batch.

    python benchmarks/losses_shifted.py digits              # trains and measures what is missing
    python benchmarks/losses_shifted.py digits --minutes 14 # stops after that time; run it again
    python benchmarks/losses_shifted.py cifar10
    python benchmarks/losses_table.py                       # the tables of docs/results-losses.md

A cell is a network: (loss, activation, seed), trained as `qact bench --loss LOSS` trains it. Losses
have their defaults, nothing is tuned for any of them. Measured are all test images, clean and under
eight corruptions at severities 3 and 5, with stored statistics (`frozen`) and with those of batches
of 200 (`batch-200`, by BatchNorm and QAct alike). Probabilities are softmax of the logits; `nll_t`
and `ece_t` are taken after one temperature, fitted on clean validation images with the same
statistics: losses that do not train softmax are compared by these. `auroc` is how well the largest
logit tells clean test images from images whose pixels are in another order, `auroc_noise` from
uniform noise. Rows are appended to `benchmarks/data/losses/STUDY.csv` cell by cell.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from qact import calibration, losses
from qact.bench import Recipe, Training, rival
from qact.bench.data import Inputs, load_inputs, permutation
from qact.bench.measure.adapt import predict
from qact.bench.recipe.recipe import Data
from qact.bench.recipe.shift import CORRUPTIONS
from qact.bench.train.network import train_cell

STUDIES = {
    "digits": Recipe(data=Data(size=16)),
    "cifar10": Recipe(
        data=Data("cifar10", limit=6_000, test_limit=1_000),
        training=Training(epochs=8, batch=50),
    ),
}
ACTIVATIONS, SEEDS = ("relu", "qact"), (0, 1, 2)
ADAPTATIONS, SEVERITIES = ("frozen", "batch-200"), (3, 5)
FIELDS = (
    *("loss", "activation", "seed", "adaptation", "corruption", "severity"),
    *("accuracy", "nll", "ece", "brier", "nll_t", "ece_t", "brier_t", "auroc", "auroc_noise"),
)
DATA = Path(__file__).parent / "data" / "losses"


def names() -> list[str]:
    return [name for name in losses.names() if losses.entry(name).of != "values"]


def done(path: Path) -> set[tuple[str, str, int]]:
    if not path.exists():
        return set()
    with path.open() as file:
        return {(r["loss"], r["activation"], int(r["seed"])) for r in csv.DictReader(file)}


def scrambled(images: Tensor) -> Tensor:
    """The same pixels in one other order: what is left of an image is its histogram."""
    order = torch.randperm(images[0, 0].numel(), generator=torch.Generator().manual_seed(0))
    return images.flatten(2)[..., order].view_as(images)


def noise(images: Tensor) -> Tensor:
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(0))


def auroc(known: Tensor, unknown: Tensor) -> float:
    """The chance that a known image has the larger score, ties counted by half."""
    order = torch.cat([known, unknown]).unique(return_inverse=True)[1].double()
    ranks = torch.empty(len(order), dtype=torch.float64)
    values, counts = order.unique(return_counts=True)
    middle = counts.cumsum(0) - (counts - 1) / 2
    ranks = middle[order.long()] if len(values) else ranks
    n, m = len(known), len(unknown)
    return ((ranks[:n].sum() - n * (n + 1) / 2) / (n * m)).item()


def measured(probs: Tensor, labels: Tensor, tail: str = "") -> dict[str, float]:
    return {
        f"nll{tail}": calibration.negative_log_likelihood(probs, labels),
        f"ece{tail}": calibration.calibration_error(probs, labels),
        f"brier{tail}": calibration.brier_score(probs, labels),
    }


def rows(model: torch.nn.Module, inputs: Inputs, seed: int) -> Iterator[dict]:
    """The rows of one trained network."""
    y = inputs.test_labels
    for name in ADAPTATIONS:

        def logits(images: Tensor, name: str = name) -> Tensor:
            return predict(model, images, name, permutation(len(images), seed)).double()

        temperature = calibration.TemperatureScaling().fit(logits(inputs.val[0]), inputs.val[1])
        conditions = [("none", 0)] + [(c, s) for s in SEVERITIES for c in CORRUPTIONS]
        for corruption, severity in conditions:
            z = logits(inputs.shifted(corruption, severity, 0))
            row = {"adaptation": name, "corruption": corruption, "severity": severity}
            row["accuracy"] = (z.argmax(1) == y).double().mean().item()
            row |= measured(z.softmax(1), y) | measured(temperature.predict(z), y, "_t")
            if severity == 0:
                for key, other in (("auroc", scrambled), ("auroc_noise", noise)):
                    strange = logits(inputs.normalised(other(inputs.test_images)))
                    row[key] = auroc(z.amax(1), strange.amax(1))
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--loss", action="append", help="this one alone; repeat for more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    recipe, path = STUDIES[options.study], DATA / f"{options.study}.csv"
    inputs = load_inputs(recipe.data)
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = done(path)
    every = options.loss or names()
    for seed, loss, activation in ((s, n, a) for s in SEEDS for n in every for a in ACTIVATIONS):
        if (loss, activation, seed) in finished:
            continue
        if time.monotonic() > end:
            print("time is up; run it again to go on")
            return
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            trained = train_cell(
                recipe.of_loss(loss), rival(activation), seed, inputs, Path(folder), lambda n: None
            )
        cell = {"loss": loss, "activation": activation, "seed": seed}
        with torch.no_grad():
            found = [cell | row for row in rows(trained.model, inputs, seed)]
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            rounded = (
                {k: round(v, 5) if isinstance(v, float) else v for k, v in r.items()} for r in found
            )
            writer.writerows(rounded)
        clean = next(r["accuracy"] for r in found if r["severity"] == 0)
        print(
            f"{loss:26} {activation:5} {seed}  {clean:.4f}  {time.monotonic() - begin:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
