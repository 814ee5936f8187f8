"""Which layers cost accuracy under which corruption, and whether their distance would have told.

    python benchmarks/drift_report.py digits
    python benchmarks/drift_report.py fullsize --relu relu.npz --qact qact.npz --images test.npz
    python benchmarks/drift_report.py --table      # of what is recorded

Every network is run on clean images and on the same under a corruption of severity 5, frozen. Each
norm in turn is put right: its contexts mapped by rank ("context"), its activations patched
("activations", of the layers that end a branch), and that foretold by a gradient ("gradient").
Digits: 16 x 16 pixels, a network of four convolutions, 12 epochs of Adam at 0.01, three seeds, 500
test images. Full size: the networks of `fullsize.py`, the first images of CIFAR-10's test part.
Rows are written as they come, and a run goes on where one has ended.
"""

import argparse
import csv
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import qact
from fullsize_streams import MEAN, STD
from fullsize_streams import network as fullsize_network
from qact.taps.report import spearman

CORRUPTIONS = (
    "gaussian_noise", "defocus_blur", "fog", "contrast", "pixelate", "jpeg_compression",
)  # fmt: skip
OUT = Path(__file__).parent / "data" / "drift-report.csv"
SEVERITY = 5
FIELDS = ("set", "network", "seed", "corruption", "way", "layer", "ks", "accuracy", "loss",
          "base_accuracy", "base_loss", "clean_accuracy", "clean_loss", "images")  # fmt: skip
Batch = tuple[torch.Tensor, torch.Tensor]


def digits_network(act: str, channels: int = 16) -> nn.Module:
    def block(a: int, b: int, stride: int = 1) -> nn.Module:
        made = {"qact": lambda: qact.QAct(b), "relu": nn.ReLU, "gelu": nn.GELU}[act]()
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), made)

    c = channels
    parts = block(1, c), block(c, 2 * c, 2), block(2 * c, 2 * c), block(2 * c, 4 * c, 2)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * c, 10))


def trained(act: str, seed: int, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(seed)
    model = digits_network(act)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(12):
        for part in torch.randperm(len(labels)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    return model.eval()


def digits(kind: str, seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, and the test images in [0, 1] with their labels."""
    data = qact.datasets.load("digits", 16)
    model = trained(kind, seed, data.train[0].float() / 255, data.train[1])
    return model, data.test[0].float() / 255, data.test[1]


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Images in the units that a network was trained on: digits as they are."""
    return images if images.shape[1] == 1 else (images - MEAN) / STD


def fullsize(
    kind: str, options: argparse.Namespace
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with np.load(options.images, allow_pickle=False) as file:
        images, labels = (torch.from_numpy(file[key][: options.n]) for key in ("images", "labels"))
    model = fullsize_network(kind, getattr(options, kind))
    return model, images.permute(0, 3, 1, 2).float() / 255, labels.long()


def ends(name: str) -> bool:
    """Whether a norm of a ResNet ends a branch: patching an earlier one does the same."""
    return "bn2" in name or "shortcut" in name


def rows(model: nn.Module, clean: list[Batch], shifted: list[Batch], full: bool) -> list[dict]:
    norms = lambda module, name: isinstance(module, nn.BatchNorm2d)  # noqa: E731
    last = lambda module, name: norms(module, name) and ends(name)  # noqa: E731
    ways = {"context": (norms, {"restore": "context"}), "gradient": (norms, {"gradient": True})}
    if full:  # in a chain everything passes every layer
        ways["activations"] = (last, {})
    found = []
    for way, (where, options) in ways.items():
        start = time.perf_counter()
        report = qact.explain_drift(model, clean, shifted, where, **options)
        print(f"  {way} {time.perf_counter() - start:.0f} s", flush=True)
        for layer in report.layers:
            gained = layer.restored.accuracy - report.shifted.accuracy
            numbers = {
                "ks": layer.ks, "accuracy": gained, "loss": layer.gain,
                "base_accuracy": report.shifted.accuracy, "base_loss": report.shifted.loss,
                "clean_accuracy": report.clean.accuracy, "clean_loss": report.clean.loss,
            }  # fmt: skip
            written = {key: f"{value:.6g}" for key, value in numbers.items()}
            found.append({"way": way, "layer": layer.name, **written})
    return found


def study(options: argparse.Namespace) -> None:
    known = {(r["set"], r["network"], r["seed"], r["corruption"]) for r in read(options.out)}
    seeds = range(options.seeds if options.set == "digits" else 1)
    cells = [(kind, seed) for kind in ("relu", "qact") for seed in seeds]
    for kind, seed in cells:
        model = None
        for corruption in CORRUPTIONS:
            key = {"set": options.set, "network": kind, "seed": str(seed), "corruption": corruption}
            if tuple(key.values()) in known:
                continue
            if model is None:
                own = options.set == "digits"
                model, images, labels = digits(kind, seed) if own else fullsize(kind, options)
            print(key, flush=True)
            bad = qact.corruptions.corrupt(images, corruption, SEVERITY)
            pairs = [
                list(zip(scaled(x).split(options.batch), labels.split(options.batch), strict=True))
                for x in (images, bad)
            ]
            write(options.out, [
                {**key, **row, "images": len(labels)}
                for row in rows(model, *pairs, full=options.set == "fullsize")
            ])  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, new: list[dict], fields: tuple[str, ...] = FIELDS) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(new)


def table(path: Path) -> list[str]:
    """Per network and corruption: what it costs, the costliest layers, and rank correlations."""
    grouped: dict[tuple[str, str, str], dict] = defaultdict(lambda: defaultdict(list))
    for row in read(path):
        grouped[row["set"], row["network"], row["corruption"]][row["way"]].append(row)
    lines = [
        "| set | network | corruption | accuracy, clean and shifted | by context, share of loss "
        "| furthest | distance and context | distance and patch | gradient and patch |",
        "|---|---|---|---:|---|---|---:|---:|---:|",
    ]  # fmt: skip
    for (name, network, corruption), ways in grouped.items():
        base = ways["context"]
        mean = lambda field, rows: 100 * fmean(float(r[field]) for r in rows)  # noqa: E731
        cost = f"{mean('clean_accuracy', base):.1f} {mean('base_accuracy', base):.1f}"
        layers = averaged(base)
        best = sorted(layers, key=lambda n: -layers[n]["share"])[:2]
        shown = ", ".join(f"{n} ({100 * layers[n]['share']:.0f}%)" for n in best)
        furthest = max(layers, key=lambda n: layers[n]["ks"])
        cells = [correlation(base), *patches(ways)]
        lines.append(
            f"| {name} | {network} | {corruption} | {cost} | {shown} | {furthest} | "
            f"{' | '.join(cells)} |"
        )
    return lines


def averaged(rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Means over seeds: distance, and the share of the loss that the shift has cost."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"ks": [], "share": []})
    for row in rows:
        gap = float(row["base_loss"]) - float(row["clean_loss"])
        found[row["layer"]]["ks"].append(float(row["ks"]))
        found[row["layer"]]["share"].append(float(row["loss"]) / gap)
    return {n: {k: fmean(v) for k, v in values.items()} for n, values in found.items()}


def correlation(rows: list[dict[str, str]]) -> str:
    layers = averaged(rows).values()
    return f"{spearman([a['ks'] for a in layers], [a['share'] for a in layers]):.2f}"


def patches(ways: dict[str, list[dict[str, str]]]) -> list[str]:
    """Rank correlations of measured patches with distance, and with what a gradient foretells."""
    if "activations" not in ways:
        return ["", ""]
    measured, told = averaged(ways["activations"]), averaged(ways["gradient"])
    pair = ([told[n]["share"] for n in measured], [measured[n]["share"] for n in measured])
    return [correlation(ways["activations"]), f"{spearman(*pair):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", nargs="?", choices=("digits", "fullsize"))
    parser.add_argument("--relu", type=Path, help="weights of resnet18(act='relu')")
    parser.add_argument("--qact", type=Path, help="weights of resnet18(act='qact')")
    parser.add_argument("--images", type=Path, help=".npz with images (N, 32, 32, 3) and labels")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.set:
        study(options)
    if options.table:
        print("\n".join(table(options.out)))


if __name__ == "__main__":
    main()
