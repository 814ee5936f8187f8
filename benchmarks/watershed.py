"""What the watershed loss costs: forward, and forward with backward, of 512 embeddings of 512.

    python benchmarks/watershed.py
    python benchmarks/watershed.py --device cuda

Prints the minimum and the median over repetitions, in milliseconds, with the triplet losses beside
it and the propagation alone. Writes `benchmarks/data/watershed-DEVICE.json`.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qact.losses import propagate, triplet_loss, triplet_watershed_loss, watershed_loss
from qact.losses.distances import pairwise_distances
from qact.losses.seeds import choose_seeds

SHAPES = ((512, 512, 10), (512, 512, 100), (128, 512, 10))
REPEATS = 20


def milliseconds(function: Callable[[], object], device: str) -> dict[str, float]:
    times = []
    for _ in range(REPEATS + 3):
        begin = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
    kept = times[3:]
    return {"min": round(min(kept), 2), "median": round(statistics.median(kept), 2)}


def measure(n: int, size: int, classes: int, device: str) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    y = torch.randint(classes, (n,), device=device)
    x = torch.randn(n, size, device=device) + torch.randn(classes, size, device=device)[y]
    d, seeds = pairwise_distances(x), choose_seeds(y, 1)
    x.requires_grad_()
    losses = {
        "watershed": lambda: watershed_loss(x, y),
        "triplet, semi-hard": lambda: triplet_loss(x, y),
        "triplet_watershed": lambda: triplet_watershed_loss(x, y),
    }
    found = {"propagation": milliseconds(lambda: propagate(d, seeds), device)}
    for name, loss in losses.items():
        found[f"{name}, forward"] = milliseconds(loss, device)
        found[f"{name}, with backward"] = milliseconds(lambda loss=loss: loss().backward(), device)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for n, size, classes in SHAPES:
        found = measure(n, size, classes, options.device)
        rows.append({"batch": n, "size": size, "classes": classes, "milliseconds": found})
        print(f"{n} x {size}, {classes} classes")
        for name, value in found.items():
            print(f"  {name:32} {value['min']:8.1f} ms  (median {value['median']:.1f})", flush=True)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    about = {
        "command": f"python benchmarks/watershed.py --device {options.device}",
        "device": gpu or f"{platform.machine()}, {options.threads} thread",
        "torch": torch.__version__,
        "repeats": REPEATS,
    }
    path = Path("benchmarks/data") / f"watershed-{options.device}.json"
    path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
