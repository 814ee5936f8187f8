"""All activations of the registry in the same slim residual network on a part of CIFAR-10.

    QACT_DATA=DIR python benchmarks/cifar10.py

5,400 images to train on, 600 to choose on, 6,000 to test on. First the learning rate: for ReLU,
on the validation images, two seeds. Then every activation with that recipe and three seeds, clean
and under four corruptions of severity 3, with frozen and with test-batch statistics. Results are
written as they come; the same command goes on where it was stopped. ``--table`` writes what is
there into ``docs/results.md``: the seeds that all activations have.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from qact.bench import (
    Data,
    Model,
    Recipe,
    Results,
    Shift,
    Summary,
    Training,
    list_rivals,
    load_results,
    run,
)
from qact.bench.data import load_inputs
from qact.bench.errors import CellError
from qact.bench.recipe.rivals import rival
from qact.bench.report.ranking import ranked, score
from qact.bench.report.terminal import print_ranking
from qact.bench.report.text import shown
from qact.bench.runner.progress import Lines
from qact.bench.train.network import train_cell

MARKS = ("<!-- cifar10 -->", "<!-- /cifar10 -->")
RATES = (3e-3, 1e-2, 3e-2, 6e-2)
RECIPE = Recipe(
    data=Data("cifar10", limit=6_000),
    model=Model("resnet_small", 1.0),
    training=Training(epochs=8, batch=50),
    shift=Shift(
        corruptions=("gaussian_noise", "defocus_blur", "fog", "contrast"),
        severities=(0, 3),
        adaptations=("frozen", "batch-200"),
    ),
)


def chosen(folder: Path) -> dict[str, list[float]]:
    """Validation accuracies of ReLU per learning rate, one for each of two seeds."""
    path = folder / "recipe.json"
    if path.exists():
        return json.loads(path.read_text())["validation_accuracy_of_relu"]
    found = {}
    for rate in RATES:
        recipe = replace(RECIPE, training=replace(RECIPE.training, lr=rate))
        runs = []
        for seed in (0, 1):
            with tempfile.TemporaryDirectory() as place:
                inputs = load_inputs(recipe.data)
                cell = train_cell(recipe, rival("relu"), seed, inputs, Path(place), lambda n: None)
            runs.append(cell.history[-1]["val_accuracy"])
        found[str(rate)] = runs
        print(f"lr {rate:g}: ReLU on validation images {runs}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"validation_accuracy_of_relu": found, "recipe": asdict(RECIPE)}
    path.write_text(json.dumps(about, indent=1))
    return found


def complete(results: Results) -> tuple[int, ...]:
    """The seeds that all activations have which finished at all."""
    finished = {cell.rpartition("/")[0] for cell in results.cells}
    seeds = results.recipe.seeds
    return tuple(s for s in seeds if all(f"{name}/{s}" in results.cells for name in finished))


def table(summary: Summary) -> str:
    """The ranking in Markdown."""
    head = ["", "activation", "clean", *summary.adaptations, "ECE", "validation"]
    lines = ["| " + " | ".join(head) + " |", "|---:|---|" + "---:|" * (len(head) - 2)]
    for place, name in enumerate(ranked(summary), 1):
        first = (name, summary.adaptations[0])
        cells = [summary.results.cells.get(f"{name}/{seed}") for seed in summary.seeds]
        val = statistics.fmean(c["history"][-1]["val_accuracy"] for c in cells if c)
        row = [
            str(place),
            f"`{name}`",
            shown(summary.at(first, 0, "accuracy"), 100),
            *(shown(score(summary, name, a), 100) for a in summary.adaptations),
            shown(summary.shifted(first, "ece"), 100),
            f"{100 * val:.1f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def findings(summary: Summary) -> str:
    """Where the best, ReLU and QAct stand in each column, in words."""
    columns = {"clean": lambda n: summary.at((n, "frozen"), 0, "accuracy").mean}
    for adaptation in summary.adaptations:
        columns[adaptation] = lambda n, a=adaptation: score(summary, n, a).mean
    lines = []
    for label, value in columns.items():
        order = sorted(summary.activations, key=lambda n: -value(n))
        places = ", ".join(
            f"`{n}` is number {order.index(n) + 1} with {100 * value(n):.1f}"
            for n in ("relu", "qact", "qact.paper")
        )
        best = ", ".join(f"`{n}` {100 * value(n):.1f}" for n in order[:3])
        lines.append(f"- *{label}*: the best three are {best}; {places}.")
    failed = sorted(set(summary.results.recipe.activations) - set(summary.activations))
    if failed:
        names = ", ".join(f"`{name}`" for name in failed)
        lines.append(f"- No row: {names}, whose logits under shift are not finite.")
    return "\n".join(lines)


def write_page(summary: Summary, page: Path) -> None:
    """Put the table and what it shows between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(MARKS[0])
    _, tail = rest.split(MARKS[1])
    seeds = f"{len(summary.activations)} activations, seeds {', '.join(map(str, summary.seeds))}:"
    if len(summary.seeds) < len(summary.results.recipe.seeds):
        asked = len(summary.results.recipe.seeds)
        seeds = f"**Unfinished: {len(summary.seeds)} of {asked} seeds are in.** {seeds}"
    middle = f"\n{seeds}\n\n{table(summary)}\n\n{findings(summary)}\n"
    page.write_text(f"{head}{MARKS[0]}\n{middle}\n{MARKS[1]}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10-activations"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/cifar10"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--table", action="store_true", help="only write what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        rates = chosen(options.out)
        rate = max(rates, key=lambda r: statistics.mean(rates[r]))
        names = tuple(entry.name for entry in list_rivals("all"))
        training = replace(RECIPE.training, lr=float(rate))
        recipe = replace(RECIPE, training=training, activations=names)
        command, console = "python benchmarks/cifar10.py", Console()
        try:
            run(recipe, options.runs, command=command, display=lambda n: Lines(console, n))
        except CellError as error:
            print(error)
    results = load_results(options.runs)
    summary = Summary(results)
    about = {"recipe": results.recipe.as_dict(), "environment": results.environment}
    (options.out / "about.json").write_text(json.dumps(about, indent=1))
    (options.out / "results.csv").write_text((options.runs / "results.csv").read_text())
    summary.seeds = complete(results)
    write_page(summary, options.page)
    print_ranking(summary, Console())


if __name__ == "__main__":
    main()
