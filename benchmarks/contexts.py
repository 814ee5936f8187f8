"""What a context, a layer, a corruption costs, against another build of qact.

    python benchmarks/contexts.py                              # beside BatchNorm in training
    python benchmarks/contexts.py --against ../old/src         # beside an older checkout too
    python benchmarks/contexts.py --against ../old/src --part layers        # or: corruptions

All run in turn in one process, A B C A B C, with one thread; a figure is processor time, the median
of the rounds, and a ratio is that of one round. Both builds are the package `qact`: modules of the
one are put aside while the other runs.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHAPE = (128, 64, 16, 16)
Work = Callable[[], object]


Modules = dict[str, Any]


def ours() -> Modules:
    """The modules of the build that is in place."""
    return {n: m for n, m in sys.modules.items() if n == "qact" or n.startswith("qact.")}


def place(modules: Modules) -> None:
    """Put another build in place: functions import some modules when they are called."""
    for name in ours():
        del sys.modules[name]
    sys.modules.update(modules)


def build(source: Path | None, z: Tensor, part: str) -> tuple[dict[str, Work], Modules]:
    """The works of the package in the folder ``source``, or of that which Python finds."""
    place({})
    before = list(sys.path)
    sys.path[:0] = [] if source is None else [str(source.resolve())]
    made = PARTS[part](importlib.import_module("qact"), z)
    for work in made.values():
        work()
    sys.path[:] = before
    return made, ours()


def contexts(qact: Any, z: Tensor) -> dict[str, Work]:
    """Contexts of one build, and reading them."""
    context = qact.Context(z.shape[1]).add(z)
    evaluated = qact.QAct(z.shape[1]).train()
    evaluated(z)
    evaluated.eval()
    return {
        "Context.add": lambda: context.add(z),
        "Context.rank": lambda: context.rank(z),
        "Context.rank, steps": lambda: context.rank(z, smooth=False),
        "Context.density": lambda: context.density(z),
        "Context.quantile": lambda: context.quantile(0.5),
        "QAct.eval()": lambda: evaluated(z),
    }


def layers(qact: Any, z: Tensor) -> dict[str, Work]:
    """A step forward and backward in training, and the same in `eval()` without gradients."""
    made: dict[str, Work] = {}
    for name in ("QAct", "NormedQAct", "QAct.paper"):
        kind = qact.QAct.paper if name == "QAct.paper" else getattr(qact, name)
        layer, grad = kind(z.shape[1]).train(), torch.randn_like(z)

        def step(layer: nn.Module = layer, grad: Tensor = grad) -> None:
            with torch.enable_grad():
                layer.train()(z.detach().requires_grad_()).backward(grad)

        step()
        made[f"{name}, training step"] = step
        made[f"{name}, eval()"] = lambda layer=layer: layer.eval()(z)
    return made


def corruptions(qact: Any, z: Tensor) -> dict[str, Work]:
    """Every corruption of CIFAR-10-C at severity 3, on 128 images."""
    shift = importlib.import_module("qact.shift")
    images = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {name: lambda n=name: shift.corrupt(images, n, 3) for name in shift.corruptions("all")}


PARTS = {"contexts": contexts, "layers": layers, "corruptions": corruptions}


def measured(rivals: dict[str, tuple[Work, Modules]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, all in turn."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, (work, modules) in rivals.items():
            place(modules)
            begin = time.process_time()
            work()
            times[name].append(time.process_time() - begin)
    return times


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="src folder of an older checkout")
    parser.add_argument("--part", choices=PARTS, default="contexts")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    z = torch.randn(SHAPE)
    norm = nn.BatchNorm2d(SHAPE[1])
    rivals: dict[str, tuple[Work, Modules]] = {"BatchNorm": (lambda: norm(z), {})}
    if options.against is not None:
        old, modules = build(options.against, z, options.part)
        rivals |= {f"old {name}": (work, modules) for name, work in old.items()}
    new, modules = build(None, z, options.part)
    rivals |= {name: (work, modules) for name, work in new.items()}
    times = measured(rivals, options.rounds)
    print(f"{'x'.join(map(str, SHAPE))}, one thread, median of {options.rounds} rounds")
    for name in [n for n in rivals if not n.startswith("old ")]:
        line = f"{name:22s} {1e3 * statistics.median(times[name]):8.2f} ms"
        if f"old {name}" in times:
            pairs = zip(times[f"old {name}"], times[name], strict=True)
            line += f"  {statistics.median(a / b for a, b in pairs):6.1f} times faster"
        print(line)


if __name__ == "__main__":
    main()
