"""What sparse inputs of layers cost: accuracy against share, clean and shifted.

    python benchmarks/sparsity.py           # measures what is missing, then prints the table
    python benchmarks/sparsity.py --table   # of what is recorded

The digits networks of `drift_report.py` (BatchNorm with ReLU or QAct, frozen, three seeds).
Contexts are those of the 1,000 training images, accuracy that of the 500 test images, clean and
under Gaussian noise and fog of severity 5, in batches of 100. "follow" keeps the share on the
stream, with a memory of 200 samples.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import torch

import qact
from drift_report import SEVERITY, digits, read, write
from qact.taps import sparsity_curve
from qact.taps.sparsity import BINS, WEIGHTED

OUT = Path(__file__).parent / "data" / "sparsity.csv"
SHARES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)
WAYS = {"zero": {"center": False}, "mode": {}, "mode, follow": {"follow": 200.0}}
FIELDS = ("network", "seed", "shift", "way", "share", "found", "accuracy", "saved")


def rows(kind: str, seed: int) -> list[dict[str, object]]:
    model, images, labels = digits(kind, seed)
    source = qact.datasets.load("digits", 16).train[0].float() / 255
    layers = lambda module, name: isinstance(module, WEIGHTED)  # noqa: E731
    contexts = qact.tap(model, layers, side="input").observe(bins=BINS)
    contexts.run(source.split(250))
    stored, found = dict(contexts), []
    for shift in ("clean", "gaussian_noise", "fog"):
        x = images if shift == "clean" else qact.corruptions.corrupt(images, shift, SEVERITY)
        pairs = list(zip(x.split(100), labels.split(100), strict=True))
        for way, options in WAYS.items():
            for point in sparsity_curve(model, stored, pairs, SHARES, **options):
                numbers = {k: round(v, 4) for k, v in vars(point).items()}
                found.append({"network": kind, "seed": seed, "shift": shift, "way": way, **numbers})
    return found


def table(path: Path) -> list[str]:
    """Mean accuracy over seeds, in percent, per share."""
    grouped: dict[tuple[str, str, str], dict[float, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in read(path):
        key = row["network"], row["shift"], row["way"]
        grouped[key][float(row["share"])].append(100 * float(row["accuracy"]))
    head = " | ".join(f"{100 * share:.0f}%" for share in SHARES)
    lines = [f"| network | images | around | {head} |", "|---|---|---|" + "---:|" * len(SHARES)]
    for key, found in grouped.items():
        lines.append(
            f"| {' | '.join(key)} | {' | '.join(f'{fmean(found[s]):.1f}' for s in SHARES)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = {(row["network"], int(row["seed"])) for row in read(options.out)}
    for kind in () if options.table else ("relu", "qact"):
        for seed in range(3):
            if (kind, seed) not in known:
                write(options.out, rows(kind, seed), FIELDS)
    print("\n".join(table(options.out)))


if __name__ == "__main__":
    main()
