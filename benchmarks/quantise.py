"""What 8, 6 and 4 bits of activations cost QAct, ReLU and GELU networks, clean and under shift.

    python benchmarks/quantise.py           # measures what is missing, then prints the table
    python benchmarks/quantise.py --table   # of what is recorded

The digits networks of `drift_report.py`, three seeds. Ranges of the four activations are those of
the 1,000 training images, one per layer; fake quantisation, weights in float32. 500 test images,
clean and under three corruptions of severity 5, in batches of 100: frozen, or with QAct and
BatchNorm reading the test batch ("batch"), quantised by the ranges of the training images.
"""

import argparse
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

import qact
from drift_report import SEVERITY, digits, read, write
from qact.taps import kurtosis, quantise

OUT = Path(__file__).parent / "data" / "quantise.csv"
SHIFTS = ("gaussian_noise", "fog", "contrast")
BITS, CLIPS = (32, 8, 6, 4, 3), ("minmax", "quantile", "mse", "kl")
FIELDS = ("network", "seed", "images", "reads", "clip", "bits", "accuracy", "kurtosis")
Images = list[tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def accuracy(model: nn.Module, pairs: Images) -> float:
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)
    return right / sum(len(y) for _, y in pairs)


def rows(kind: str, seed: int, clips: list[str]) -> list[dict[str, object]]:
    model, images, labels = digits(kind, seed)
    where = ["0.2", "1.2", "2.2", "3.2"]
    source = qact.datasets.load("digits", 16).train[0].float() / 255
    contexts = qact.tap(model, where).observe(bins=512)
    contexts.run(source.split(250))
    stored, found = dict(contexts), []
    with torch.no_grad(), qact.tap(model, where) as seen:
        model(source)
    tailed = fmean(float(kurtosis(values)) for values in seen.values())
    for name in ("clean", *SHIFTS):
        x = images if name == "clean" else qact.corruptions.corrupt(images, name, SEVERITY)
        pairs = list(zip(x.split(100), labels.split(100), strict=True))
        for reads in ("running", "batch"):
            for clip in clips:
                for bits in BITS if clip == "mse" else BITS[1:]:
                    own = nullcontext() if bits == 32 else quantise(
                        model, stored, bits, where, clip=clip
                    )  # fmt: skip
                    with qact.adapting(model, reads), own:
                        value = accuracy(model, pairs)
                    found.append({
                        "network": kind, "seed": seed, "images": name, "reads": reads, "clip": clip,
                        "bits": bits, "accuracy": round(value, 4), "kurtosis": round(tailed, 2),
                    })  # fmt: skip
    return found


def table(path: Path, clip: str = "mse") -> list[str]:
    """Mean accuracy over seeds, and over corruptions, in percent, by bits."""
    grouped: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    tails: dict[str, list[float]] = defaultdict(list)
    for row in read(path):
        images = "clean" if row["images"] == "clean" else "shifted"
        tails[row["network"]].append(float(row["kurtosis"]))
        if row["clip"] == clip:
            key = row["network"], images, "frozen" if row["reads"] == "running" else "batch"
            grouped[key][int(row["bits"])].append(100 * float(row["accuracy"]))
    lines = [
        f"| network | kurtosis | images | reads | float32 | {' | '.join(map(str, BITS[1:]))} |",
        "|---|---:|---|---|" + "---:|" * len(BITS),
    ]
    for (network, images, reads), found in grouped.items():
        cells = " | ".join(f"{fmean(found[bits]):.1f}" for bits in BITS)
        lines.append(f"| {network} | {fmean(tails[network]):.1f} | {images} | {reads} | {cells} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=["mse"], help="measured")
    parser.add_argument("--clip", choices=CLIPS, default="mse")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = {(row["network"], int(row["seed"])) for row in read(options.out)}
    for kind in () if options.table else ("qact", "relu", "gelu"):
        for seed in range(3):
            if (kind, seed) not in known:
                write(options.out, rows(kind, seed, options.clips), FIELDS)
    print("\n".join(table(options.out, options.clip)))


if __name__ == "__main__":
    main()
