"""What taps cost: a pass of ResNet-18 alone, with a tap that changes nothing, and with contexts.

    python benchmarks/taps.py                 # prints ratios; --batch 64 --repeats 15

Every figure is the median over repeats of one way's time divided by that of a pass alone, which
runs right before it: one process, one thread, random weights, noise as images of 32 x 32.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

import qact

OUT = Path(__file__).parent / "data" / "taps.json"


def ways(model: nn.Module, x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Names of ways to run a pass, each a function of nothing."""
    tap, everything = qact.tap(model), qact.tap(model, lambda module, name: name != "")

    def within(block: Any) -> Callable[[], Any]:
        def run() -> None:
            with block:
                model(x)

        return run

    return {
        "record": lambda: qact.record(model, x),
        "contexts": within(tap.observe()),
        "contexts, 64 positions": within(tap.observe(sample=64)),
        "values, pooled": within(tap.read("mean")),
        "values": within(tap.read()),
        "no change": within(tap.change(lambda z: None)),
        "no change, every module": within(everything.change(lambda z: None)),
    }


def seconds(run: Callable[[], Any]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


@torch.no_grad()
def measured(batch: int, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = qact.models.resnet18(act="relu").eval()
    x = torch.randn(batch, 3, 32, 32)
    found, passes = {}, []
    for name, run in ways(model, x).items():
        run(), model(x)
        ratios = []
        for _ in range(3 if name == "record" else repeats):
            alone, with_tap = seconds(lambda: model(x)), seconds(run)
            passes.append(alone)
            ratios.append(with_tap / alone)
        ratios.sort()
        quarters = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        found[name] = {
            "ratio": round(median(ratios), 3),
            "quartiles": [round(q, 3) for q in quarters],
        }
        low, high = found[name]["quartiles"]
        print(f"{name:26} {found[name]['ratio']:6.3f}  (quartiles {low:.3f} to {high:.3f})")
    return {
        "places": len(qact.tap(model).places),
        "batch": batch,
        "repeats": repeats,
        "pass_seconds": round(median(passes), 4),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, one thread, shared with other work",
        "ratios": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measured(options.batch, options.repeats), indent=1) + "\n")


if __name__ == "__main__":
    main()
