"""The full-size result: ResNet-18 on all of CIFAR-10, corrupted; its tables and its picture.

    python benchmarks/fullsize.py                    # tables of the recorded networks
    python benchmarks/fullsize.py --out docs/images  # and the picture of README
    python benchmarks/fullsize.py --train relu qact --seeds 3 --device cuda --data runs/fullsize

``--train`` is a bench: `qact bench --model resnet18 --data cifar10 --preset fast --with-validation`
with what is measured below. Stopped, the same command goes on. Every network that is finished
becomes one file of the recorded format in ``--data``; CIFAR-10 lies in the folder `QACT_DATA`.

Recorded are seven networks, measured on one NVIDIA H200 at commit 07fdc42 (torch 2.11.0, triton
3.6.0): 24 epochs of 50,000 images in batches of 512, SGD 0.4 with Nesterov momentum 0.9, linearly
up for a fifth of the steps and down again, decay 5e-4 of matrices and filters, crops and flips,
bfloat16 autocast. 10,000 test images, shuffled once, in batches of 200.
"""

import argparse
import json
import math
import shlex
import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from scipy.stats import t

from qact.bench import Data, Model, Recipe, Shift, run
from qact.bench.recipe import preset
from qact.bench.report.figures import drawn_as_svg
from qact.bench.runner.progress import Lines
from qact.shift import corruptions

DATA = Path(__file__).parent / "data" / "fullsize"
STYLE = Path(__file__).parents[1] / "src/qact/bench/report/templates/report.css"
NAMES = {"relu": "BatchNorm + ReLU", "qact": "BatchNorm + QAct"}
ADAPTATIONS = {"frozen": "frozen", "batch-200": "batch200"}  # of the bench, and as recorded
MEASURES = {"frozen": "frozen", "batch200": "test batch of 200"}
NOT_A_CORRUPTION = ("clean", "mean_frozen", "mean_batch200")

Rows = dict[str, dict[str, dict[str, float]]]


def trained(options: argparse.Namespace) -> None:
    """Train and measure the networks of a recipe, and write one file for each."""
    for seeds in range(1, options.seeds + 1):  # so that stopped runs leave finished pairs
        trained_seeds(options, tuple(range(seeds)))


def trained_seeds(options: argparse.Namespace, seeds: tuple[int, ...]) -> None:
    """The same for these seeds; what is there already is left alone."""
    fast = preset("fast")
    recipe = Recipe(
        data=Data(options.images, with_validation=True),
        model=Model("resnet18", options.width),
        training=replace(fast, epochs=options.epochs, warmup=fast.warmup * options.epochs / 24),
        shift=Shift(corruptions(), (0, 5), tuple(ADAPTATIONS)),
        activations=tuple(options.train),
        seeds=seeds,
    )
    results = run(
        recipe,
        options.data / "bench",
        devices=(options.device,),
        command=shlex.join(["python", *sys.argv]),
        display=partial(Lines, Console(stderr=True)),
    )
    for activation, _, seed in recipe.cells():
        notes = results.cells[f"{activation}/{seed}"]
        network = {
            "activation": activation,
            "seed": seed,
            "epochs": len(notes["history"]),
            "training_seconds": notes["train_seconds"],
            "device": card(notes["device"]),
            "versions": results.environment["versions"],
            "rows": rows(results.rows, activation, seed),
        }
        text = json.dumps(network, indent=1) + "\n"
        (options.data / f"{activation}-seed{seed}.json").write_text(text, encoding="utf-8")


def card(device: str) -> str:
    """Name of a GPU, where it is one."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def rows(found: list[dict[str, Any]], activation: str, seed: int) -> Rows:
    """Rows of one network in the recorded format: percent, and nats for the NLL."""
    mine = [row for row in found if (row["activation"], row["seed"]) == (activation, seed)]
    listed: Rows = defaultdict(dict)
    for row in mine:
        name = row["corruption"] if row["severity"] else "clean"
        listed[name][ADAPTATIONS[row["adaptation"]]] = {
            "acc": round(100 * row["accuracy"], 3),
            "nll": round(row["nll"], 4),
            "ece": round(100 * row["ece"], 4),
        }
    return dict(listed)


def recorded(folder: Path = DATA) -> dict[tuple[str, int], Rows]:
    """Rows of every network: (activation, seed) -> corruption -> regime -> metric, in percent."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {(network["activation"], network["seed"]): network["rows"] for network in found}


def mean(rows: Rows, regime: str, metric: str) -> float:
    """Mean over the fifteen corruptions."""
    return fmean(row[regime][metric] for name, row in rows.items() if name not in NOT_A_CORRUPTION)


def table(networks: dict[tuple[str, int], Rows]) -> list[str]:
    """One row per activation and regime, mean and standard deviation over seeds."""
    lines = ["| | regime | clean | accuracy, % | NLL | ECE, % | seeds |", "|---|---|" + "---:|" * 5]
    for activation in dict.fromkeys(name for name, _ in networks):
        seeds = [rows for (name, _), rows in networks.items() if name == activation]
        for regime, words in MEASURES.items():
            clean = fmean(rows["clean"][regime]["acc"] for rows in seeds)
            cells = [
                spread([mean(r, regime, m) for r in seeds], digits)
                for m, digits in (("acc", 1), ("nll", 2), ("ece", 1))
            ]
            name = NAMES.get(activation, activation)
            lines.append(f"| {name} | {words} | {clean:.1f} | {' | '.join(cells)} | {len(seeds)} |")
    return lines


def spread(values: list[float], digits: int) -> str:
    """Mean and, of several seeds, standard deviation."""
    sd = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{sd}"


def differences(networks: dict[tuple[str, int], Rows]) -> list[str]:
    """QAct minus ReLU, both on the test batch: paired seeds, with a 95% interval."""
    seeds = [seed for name, seed in networks if name == "qact" and ("relu", seed) in networks]
    pairs = [(networks["qact", seed], networks["relu", seed]) for seed in sorted(seeds)]
    lines: list[str] = []
    if len(pairs) < 2:
        return lines
    for metric, unit in (("acc", "points"), ("ece", "points"), ("nll", "nats")):
        gaps = [mean(q, "batch200", metric) - mean(r, "batch200", metric) for q, r in pairs]
        half = float(t.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / math.sqrt(len(gaps))
        lines.append(
            f"{metric}: {fmean(gaps):+.2f} {unit} "
            f"({fmean(gaps) - half:+.2f} to {fmean(gaps) + half:+.2f})"
        )
    return lines


def picture(networks: dict[tuple[str, int], Rows]) -> str:
    """Accuracy by corruption, sorted by what QAct gains over the fair control."""
    series = {
        "ReLU, frozen": ("relu", "frozen", "o", "#fe0300"),
        "ReLU, test batch": ("relu", "batch200", "s", "#fe0100"),
        "QAct, test batch": ("qact", "batch200", "D", "#fe0102"),
    }

    def value(name: str, activation: str, regime: str) -> float:
        seeds = [rows for (who, _), rows in networks.items() if who == activation]
        if name == "mean":
            return fmean(mean(rows, regime, "acc") for rows in seeds)
        return fmean(rows[name][regime]["acc"] for rows in seeds)

    names = ["mean", *(n for n in next(iter(networks.values())) if n not in NOT_A_CORRUPTION)]
    gain = {n: value(n, "qact", "batch200") - value(n, "relu", "batch200") for n in names}
    order = ["mean", *sorted(names[1:], key=lambda name: gain[name])]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.grid(axis="y", visible=False)
        for label, (activation, regime, marker, colour) in series.items():
            places = [value(name, activation, regime) for name in order]
            axes.plot(places, range(len(order)), marker, color=colour, label=label, markersize=6)
        for height, name in enumerate(order):
            ends = [value(name, a, r) for a, r, *_ in series.values()]
            axes.plot([min(ends), max(ends)], [height] * 2, color="#fe0400", linewidth=2, zorder=1)
            right = ("axes fraction", "data")
            axes.annotate(f"{gain[name]:+.1f}", (1.01, height), xycoords=right, va="center")
        axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
        axes.set_xlabel("accuracy, %")
        axes.set_xlim(15, 100)
        axes.set_title("QAct minus ReLU →", loc="right", fontweight="normal")
        figure.legend(loc="outside upper left", ncols=3)

    svg = drawn_as_svg(draw, (7.2, 4.6), "Accuracy of ReLU and QAct by corruption")
    style = STYLE.read_text().split("* {")[0]
    head, _, body = svg.partition(">")
    return f"{head}><style>{style} svg {{ color: var(--ink); }}</style>{body}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recorded networks")
    parser.add_argument("--out", type=Path, help="folder for the picture")
    parser.add_argument("--train", nargs="+", metavar="ACTIVATION", help="what to train first")
    parser.add_argument("--seeds", type=int, default=1, help="of each, from 0 on")
    parser.add_argument("--device", default="cuda", help="to train and to measure on")
    small = parser.add_argument_group("to try it where there is no GPU")
    small.add_argument("--images", default="cifar10", help="data set of `qact list`")
    small.add_argument("--width", type=float, default=1.0, help="of the network")
    small.add_argument("--epochs", type=int, default=24)
    options = parser.parse_args()
    if options.train:
        if options.data == DATA:
            parser.error("--train writes into --data; name a folder of your own")
        trained(options)
    networks = recorded(options.data)
    print("\n".join(table(networks)))
    if compared := differences(networks):
        print("\n".join(["", "QAct minus ReLU, test batch:", *compared]))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "fullsize.svg").write_text(picture(networks))


if __name__ == "__main__":
    main()
