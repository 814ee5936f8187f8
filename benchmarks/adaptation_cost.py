"""What methods that learn no parameters cost, as a multiple of the plain pass of the same network.

    python benchmarks/adaptation_cost.py

ResNet-18 for 32 x 32 images with BatchNorm, in eval() without gradients, on one thread. Each round
times the plain pass and every method once, in an order that is drawn anew, in processor time. What
is printed is the median of the rounds' ratios with their middle half, and that of the fastest.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qact import adapt, models

METHODS: dict[str, dict[str, float]] = {
    "source": {},
    "batch": {},
    "mixed": {},
    "prior": {"N": 16.0},
    "alpha_bn": {"alpha": 0.1},
}


def network(width: int) -> nn.Module:
    """ResNet-18 that has seen a few batches."""
    torch.manual_seed(0)
    model = models.create("resnet18", width_multiplier=width / 64)
    for _ in range(3):
        model(torch.randn(32, 3, 32, 32))
    return model.eval()


def timed(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Seconds of processor time of one call."""
    start = time.process_time()
    function(x)
    return time.process_time() - start


@torch.no_grad()
def measured(model: nn.Module, x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in every round, after one that does not count."""
    calls: dict[str, Callable[[Tensor], Tensor]] = {"plain": model}
    calls |= {name: adapt.create(name, model, **options) for name, options in METHODS.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for turn in range(rounds + 1):
        for name in draw.sample(list(calls), len(calls)):
            seconds = timed(calls[name], x)
            if turn:
                found[name].append(seconds)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(options.batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = measured(network(options.width), x, options.rounds)
    plain = found.pop("plain")
    print(
        f"plain pass: {min(plain):.3f} s, width {options.width}, batch {options.batch}, one thread"
    )
    print("method      median  middle half     fastest")
    for name, seconds in found.items():
        fastest = min(seconds) / min(plain)
        low, ratio, high = statistics.quantiles(
            [s / p for s, p in zip(seconds, plain, strict=True)]
        )
        print(f"{name:10}  {ratio:5.3f}   {low:.3f} to {high:.3f}  {fastest:.3f}")


if __name__ == "__main__":
    main()
