"""What sparse inputs of layers cost: accuracy against share, clean and shifted.

    python benchmarks/sparsity.py           # measures what is missing, then prints the table
    python benchmarks/sparsity.py --table   # of what is recorded
    python benchmarks/sparsity.py --kernel  # time that a kernel saves

The digits networks of `drift_report.py` (BatchNorm with ReLU or QAct, frozen, three seeds).
Contexts are those of the 1,000 training images, accuracy that of the 500 test images, clean and
under Gaussian noise and fog of severity 5, in batches of 100. "follow" keeps the share on the
stream, with a memory of 200 samples. "saved" is the share of multiplications that an ideal kernel
would leave out, clean, around the mode.

Time is another question. The kernel timed is torch's `embedding_bag`: a sum of the rows of the
transposed weights, weighted by the entries that are left, of one sample through one linear layer.
What it must beat is the dense product of a vector. The threshold and the list of what is left are
part of its time.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median

import torch
from torch.nn import functional as F

import qact
from drift_report import SEVERITY, digits, read, write
from qact.taps import sparsity_curve
from qact.taps.sparsity import BINS, WEIGHTED

OUT = Path(__file__).parent / "data" / "sparsity.csv"
TIMES = OUT.with_name("sparsity-kernel.csv")
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
    saved: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read(path):
        key = row["network"], row["shift"], row["way"]
        grouped[key][float(row["share"])].append(100 * float(row["accuracy"]))
        if key[1:] == ("clean", "mode"):
            saved[row["network"]][float(row["share"])].append(100 * float(row["saved"]))
    for network, found in saved.items():
        grouped[network, "saved, in principle", "mode"] = found
    head = " | ".join(f"{100 * share:.0f}%" for share in SHARES)
    lines = [f"| network | images | around | {head} |", "|---|---|---|" + "---:|" * len(SHARES)]
    for key, found in grouped.items():
        lines.append(
            f"| {' | '.join(key)} | {' | '.join(f'{fmean(found[s]):.1f}' for s in SHARES)} |"
        )
    return lines


def linear(sizes: list[int], rounds: int) -> Iterator[dict[str, object]]:
    """Time of a dense product of a vector over that of the rows left, interleaved."""
    torch.manual_seed(0)
    for size in sizes:
        weight, x = torch.randn(size, size), torch.randn(1, size)
        rows = weight.T.contiguous()
        for share in SHARES[1:]:
            threshold = x.abs().quantile(share)

            def sparse(rows=rows, x=x, threshold=threshold) -> torch.Tensor:
                left = (x[0].abs() > threshold).nonzero()[:, 0]
                return F.embedding_bag(left[None], rows, per_sample_weights=x[:, left], mode="sum")

            exact = F.linear(torch.where(x.abs() > threshold, x, 0), weight)
            torch.testing.assert_close(sparse(), exact, rtol=1e-3, atol=1e-2)
            ratios = []
            for _ in range(rounds):
                spent = [seconds(part) for part in (lambda: F.linear(x, weight), sparse)]  # noqa: B023
                ratios.append(spent[0] / spent[1])
            yield {"size": size, "share": share, "ratio": round(median(ratios), 2)}


def seconds(function: Callable[[], object], calls: int = 5) -> float:
    begin = time.process_time()
    for _ in range(calls):
        function()
    return time.process_time() - begin


def timed(path: Path) -> list[str]:
    found = {(int(r["size"]), float(r["share"])): r["ratio"] for r in read(path)}
    sizes = sorted({size for size, _ in found})
    head = " | ".join(f"{100 * share:.0f}%" for share in SHARES[1:])
    lines = [f"| linear layer | {head} |", "|---|" + "---:|" * len(SHARES[1:])]
    for size in sizes:
        cells = " | ".join(f"{float(found[size, share]):.2f}" for share in SHARES[1:])
        lines.append(f"| {size} x {size} | {cells} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--kernel", action="store_true", help="measure the kernel, and no accuracy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kernel:
        TIMES.unlink(missing_ok=True)
        for row in linear([1024, 2048, 4096], rounds=15):
            write(TIMES, [row], ("size", "share", "ratio"))
        print("\n".join(timed(TIMES)))
        return
    known = {(row["network"], int(row["seed"])) for row in read(options.out)}
    for kind in () if options.table else ("relu", "qact"):
        for seed in range(3):
            if (kind, seed) not in known:
                write(options.out, rows(kind, seed), FIELDS)
    print("\n".join([*table(options.out), "", *timed(TIMES)]))


if __name__ == "__main__":
    main()
