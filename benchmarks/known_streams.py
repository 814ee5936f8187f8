"""Adaptation methods on streams, beside published errors: the networks of `known_answers.py`.

    QACT_DATA=DIR python benchmarks/known_answers.py
    QACT_DATA=DIR python benchmarks/known_streams.py

The first 1,000 test images of CIFAR-10 under the fifteen corruptions at severity 5, in batches of
64: i.i.d., correlated (Dirichlet with 0.1 over classes) and with all corruptions mixed. Each method
has its published settings (CoTTA 4 views instead of 32) and begins anew with every corruption, the
mixed stream is one. Published are the README of NOTE (ResNet-18, batches of 64, i.i.d. and
correlated) and the benchmark of test-time-adaptation (WRN-28-10, batches of 200, mixed). ReLU comes
first, then QAct; the same command goes on where it was stopped.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from known_answers import RECIPE, record
from qact.bench import Recipe, Results, Shift, run
from qact.bench.runner.progress import Lines
from qact.shift import corruptions

STREAMS = {"iid": "i.i.d.", "dirichlet": "correlated", "mixed": "mixed"}
METHODS = {
    "relu": (
        *("source", "batch", "prior", "pseudo_label", "tent", "eata", "sar", "cotta:views=4"),
        *("rotta", "note", "lame", "delta", "roid", "safe"),
    ),
    "qact": ("source", "batch", "mixed", "tent", "delta", "safe"),
}
# Accuracy in %, from errors: i.i.d. and correlated (NOTE), mixed (test-time-adaptation).
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "source": (57.7, 57.7, 56.5),
    "batch": (78.4, 26.6, 66.2),
    "pseudo_label": (78.4, 24.6, None),
    "tent": (81.2, 23.6, 55.9),
    "lame": (55.9, 63.8, 24.8),
    "cotta": (82.2, 24.5, 67.5),
    "note": (79.9, 78.9, None),
    "eata": (None, None, 71.4),
    "sar": (None, None, 66.2),
    "rotta": (None, None, 66.6),
    "roid": (None, None, 72.0),
}


def recipe_of(activation: str) -> Recipe:
    """The networks of `known_answers.py`, measured on streams alone."""
    adaptations = tuple(f"{method}-64" for method in METHODS[activation])
    shift = Shift(corruptions(), (5,), adaptations, tuple(STREAMS), images=1_000)
    return replace(RECIPE, shift=shift, activations=(activation,))


def print_table(found: dict[str, Results], console: Console) -> None:
    """Print one row per method: ours, and what is published."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for stream in STREAMS.values():
        for who in (*METHODS, "published"):
            table.add_column(f"{stream} {who}", justify="right")
    for method in dict.fromkeys(m for methods in METHODS.values() for m in methods):
        cells = []
        for i, stream in enumerate(STREAMS):
            cells += [mean(found[who], who, f"{method}-64", stream) for who in METHODS]
            known = PUBLISHED.get(method.split(":")[0], (None,) * 3)[i]
            cells.append("–" if known is None else f"{known:.1f}")
        table.add_row(method.split(":")[0], *cells)
    console.print(table)


def mean(results: Results, activation: str, adaptation: str, stream: str) -> str:
    """Accuracy in %, over the corruptions."""
    rows = [
        row["accuracy"]
        for row in results.rows
        if (row["activation"], row["adaptation"], row["stream"]) == (activation, adaptation, stream)
    ]
    return f"{100 * sum(rows) / len(rows):.1f}" if rows else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/known-answers"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/known-answers"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, found = Console(), {}
    for activation in METHODS:
        folder = options.runs.with_name(f"known-streams-{activation}")
        linked(options.runs, folder, activation)
        command = "python benchmarks/known_streams.py"
        run(recipe_of(activation), folder, command=command, display=lambda n: Lines(console, n))
        kept = options.out / f"streams-{activation}.csv"
        found[activation] = record(folder, kept, kept.with_suffix(".json"))
    print_table(found, console)


def linked(runs: Path, folder: Path, activation: str) -> None:
    """Take the trained network of `known_answers.py`, where there is one."""
    cell = f"cells/{activation}-0/weights.safetensors"
    there, here = runs / cell, folder / cell
    if there.exists() and not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(there.read_bytes())


if __name__ == "__main__":
    main()
