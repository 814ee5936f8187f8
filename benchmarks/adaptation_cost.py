"""What methods that learn no parameters cost, as a multiple of the plain pass of the same network.

    python benchmarks/adaptation_cost.py

Networks with BatchNorm in eval() without gradients, on one thread: ResNet-18 for 32 x 32 images,
torchvision's ResNet-18 (64 x 64), and a small CNN (two convolutions of 16 and 32 channels). Each
round times the plain pass and every method once, in an order that is drawn anew, in processor time.
What is printed is the median of the rounds' ratios with their middle half, and that of the fastest.
"native" is the floor: PyTorch's BatchNorms in training, which reads the batch and nothing else.
"""

from __future__ import annotations

import argparse
import copy
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


def small() -> nn.Module:
    """Two convolutions: so little work that what a method does in Python shows."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        parts += [nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def torchvision() -> nn.Module:
    """Torchvision's ResNet-18, beside a PyTorch built without its C++ operators too."""
    from torchvision_schemas import import_torchvision

    import_torchvision()
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


def network(name: str, width: int) -> tuple[nn.Module, int]:
    """A network that has seen a few batches, and the side of its images."""
    torch.manual_seed(0)
    if name == "resnet18":
        model, side = models.create("resnet18", width_multiplier=width / 64), 32
    elif name == "torchvision":
        model, side = torchvision(), 64
    else:
        model, side = small(), 32
    for _ in range(3):
        model(torch.randn(32, 3, side, side))
    return model.eval(), side


def timed(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Seconds of processor time of one call."""
    start = time.process_time()
    function(x)
    return time.process_time() - start


def native(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorms take the batch by PyTorch's own kernel, and move nothing."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return twin


@torch.no_grad()
def measured(model: nn.Module, x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in every round, after one that does not count."""
    calls: dict[str, Callable[[Tensor], Tensor]] = {"plain": model, "native": native(model)}
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
    parser.add_argument(
        "--network", default="resnet18", choices=("resnet18", "torchvision", "small")
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, side = network(options.network, options.width)
    x = torch.randn(options.batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    found = measured(model, x, options.rounds)
    plain = found.pop("plain")
    print(f"{options.network}: plain pass {min(plain):.4f} s, batch {options.batch}, one thread")
    print("method      median  middle half     fastest")
    for name, seconds in found.items():
        fastest = min(seconds) / min(plain)
        low, ratio, high = statistics.quantiles(
            [s / p for s, p in zip(seconds, plain, strict=True)]
        )
        print(f"{name:10}  {ratio:5.3f}   {low:.3f} to {high:.3f}  {fastest:.3f}")


if __name__ == "__main__":
    main()
