"""The full-size result: ResNet-18 on all of CIFAR-10, corrupted; its tables and its picture.

    python benchmarks/fullsize.py                   # tables of the recorded networks
    python benchmarks/fullsize.py --out docs/images  # and the picture of README

Recorded are seven networks, measured on one NVIDIA H200 at commit 07fdc42 (torch 2.11.0, triton
3.6.0): 24 epochs of 50,000 images in batches of 512, SGD 0.4 with Nesterov momentum 0.9, linearly
up for a fifth of the steps and down again, decay 5e-4 of matrices and filters, crops and flips,
bfloat16 autocast. 10,000 test images, shuffled once, in batches of 200.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from qact.bench.report.figures import drawn_as_svg

DATA = Path(__file__).parent / "data" / "fullsize"
STYLE = Path(__file__).parents[1] / "src/qact/bench/report/templates/report.css"
NAMES = {"relu": "BatchNorm + ReLU", "qact": "BatchNorm + QAct"}
MEASURES = {"frozen": "frozen", "batch200": "test batch of 200"}
NOT_A_CORRUPTION = ("clean", "mean_frozen", "mean_batch200")
T_95 = 4.303  # Student's t with two degrees of freedom: three paired seeds

Rows = dict[str, dict[str, dict[str, float]]]


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
    seeds = sorted(seed for name, seed in networks if name == "qact")
    pairs = [(networks["qact", seed], networks["relu", seed]) for seed in seeds]
    lines = []
    for metric, unit in (("acc", "points"), ("ece", "points"), ("nll", "nats")):
        gaps = [mean(q, "batch200", metric) - mean(r, "batch200", metric) for q, r in pairs]
        half = T_95 * stdev(gaps) / math.sqrt(len(gaps))
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
    options = parser.parse_args()
    networks = recorded(options.data)
    print("\n".join([*table(networks), "", "QAct minus ReLU, test batch:", *differences(networks)]))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "fullsize.svg").write_text(picture(networks))


if __name__ == "__main__":
    main()
