"""Does a standard network fail as the published ones do? The bench's own check on CIFAR-10.

    QACT_DATA=DIR python benchmarks/known_answers.py

ResNet-18 of an eighth of the width (8 to 64 channels), 45,000 images with crops and flips, 12
epochs of AdamW and one learning-rate cycle; all 10,000 test images, clean and under the fifteen
corruptions at severity 5, frozen and with the statistics of i.i.d. test batches of 200. Printed per
corruption beside RobustBench's Standard WRN-28-10 and TENT's test-batch row for it; known are

1. frozen: noise and glass blur are among the worst, brightness is the best;
2. test-batch statistics gain at least 15 points on the mean.

ReLU comes first, then QAct. The same command goes on where it was stopped.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from qact.bench import Data, Model, Recipe, Results, Shift, Summary, Training, load_results, run
from qact.bench.report.published import per_corruption
from qact.bench.runner.progress import Lines
from qact.shift import corruptions

ADAPTATIONS = ("frozen", "batch-200")
PUBLISHED = {"frozen": "Standard", "batch-200": "BatchNorm on the test batch"}
RECIPE = Recipe(
    data=Data("cifar10"),
    model=Model("resnet18", 0.125),
    training=Training(epochs=12, batch=100, augmentation="crop_flip"),
    shift=Shift(corruptions=corruptions(), severities=(0, 5), adaptations=ADAPTATIONS),
    activations=("relu",),
    seeds=(0,),
)


def measured(summary: Summary, activation: str, adaptation: str) -> dict[str, float]:
    """Accuracy at severity 5 per corruption, in percent."""
    found = {
        name: summary.shifted((activation, adaptation), "accuracy", name)
        for name in summary.corruptions
    }
    return {name: 100 * stat.mean for name, stat in found.items() if stat is not None}


def known(adaptation: str) -> dict[str, float]:
    """The same of the published WRN-28-10."""
    return per_corruption("cifar10", PUBLISHED[adaptation], "WRN-28-10")


def print_table(summary: Summary, console: Console) -> None:
    """Print ours and the published numbers, the worst corruption of the frozen network first."""
    columns = {
        f"{name}, {adaptation}": measured(summary, name, adaptation)
        for name in summary.activations
        for adaptation in ADAPTATIONS
    }
    columns |= {f"WRN-28-10, {a}": known(a) for a in ADAPTATIONS}
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("", *columns):
        table.add_column(title, justify="right" if title else "left")
    first = columns["relu, frozen"]
    for name in sorted(first, key=lambda corruption: first[corruption]):
        table.add_row(name, *(f"{found[name]:.1f}" for found in columns.values()))
    means = (sum(found[n] for n in first) / len(first) for found in columns.values())
    table.add_row("mean", *(f"{mean:.1f}" for mean in means), style="bold")
    console.print(table)


def print_checks(summary: Summary, console: Console) -> None:
    """Print the two known answers, and whether they came out."""
    frozen, batch = (measured(summary, "relu", adaptation) for adaptation in ADAPTATIONS)
    order = sorted(frozen, key=lambda name: frozen[name])
    theirs = known("frozen")
    likeness = spearmanr([frozen[n] for n in order], [theirs[n] for n in order]).statistic
    gain = sum(batch[n] - frozen[n] for n in order) / len(order)
    worst, expected = set(order[:5]), {"gaussian_noise", "shot_noise", "impulse_noise"}
    answers = {
        f"the five worst are {', '.join(order[:5])}": len(worst & (expected | {"glass_blur"})) >= 3,
        f"the best is {order[-1]}": order[-1] == "brightness",
        f"test-batch statistics gain {gain:.1f} points": gain >= 15,
    }
    for text, holds in answers.items():
        console.print(f"{'as known' if holds else 'NOT AS KNOWN'}: {text}", highlight=False)
    console.print(f"rank correlation with the published order: {likeness:.2f}", highlight=False)


def record(folder: Path, table: Path, about: Path) -> Results:
    """Keep the rows of a bench, and what made them; return its results."""
    results = load_results(folder)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text((folder / "results.csv").read_text())
    made = {"recipe": results.recipe.as_dict(), "environment": results.environment}
    about.write_text(json.dumps(made, indent=1))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/known-answers"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/known-answers"))
    parser.add_argument("--activation", nargs="*", default=["relu", "qact"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    for count in range(1, len(options.activation) + 1):
        recipe = replace(RECIPE, activations=tuple(options.activation[:count]))
        command = "python benchmarks/known_answers.py"
        run(recipe, options.runs, command=command, display=lambda n: Lines(console, n))
        record(options.runs, options.out / "results.csv", options.out / "about.json")
    summary = Summary(load_results(options.runs))
    print_table(summary, console)
    print_checks(summary, console)


if __name__ == "__main__":
    main()
