"""Two builds of the CPU engine beside BatchNorm + ReLU, in turn in one process, on one thread.

    python benchmarks/before_after.py OLD/src NEW/src [--out FILE]
    python benchmarks/before_after.py OLD/src NEW/src --eval   # eval() alone, in more precisions
    python benchmarks/before_after.py OLD/src NEW/src --shifted  # the same of shifted inputs
    python benchmarks/before_after.py OLD/src NEW/src --few    # training on few values a channel
    python benchmarks/before_after.py OLD/src NEW/src --half   # training in bfloat16

Times are processor time of the thread: another process on the machine takes none of it, though it
takes of the caches. Ratios are medians over rounds, with quartiles.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

SHAPES = ((128, 512), (128, 512, 4, 4), (128, 256, 8, 8), (128, 64, 32, 32))
MODES = ("forward", "both", "eval")
# Of eval() alone: what a call costs beside its data, then maps, tokens and features.
READ = ((4, 8), *SHAPES[:3], (128, 128, 16, 16), SHAPES[3], (1024, 512), (32, 384, 197))
# Few values a channel, and almost none: what a call costs.
FEW = ((128, 512), (256, 512), (512, 512), (64, 512), (32, 512), (4, 8))
HALVES = (torch.bfloat16, torch.float16)
ROUNDS, VALUES = 7, 300_000  # and so many values, at least, in each of them
DATA = Path(__file__).resolve().parent / "data"
NEEDED = ("qact", "qact.nn.normed", "qact.kernels.cpu.block", "qact.kernels.cpu.lookup")


def build(source: str) -> dict[str, ModuleType]:
    """The modules of one build; :func:`use` puts them in the place of another's."""
    for name in [name for name in sys.modules if name.split(".")[0] == "qact"]:
        del sys.modules[name]
    sys.path.insert(0, source)
    for name in NEEDED:
        importlib.import_module(name)
    sys.path.remove(source)
    return {name: part for name, part in sys.modules.items() if name.split(".")[0] == "qact"}


def use(modules: dict[str, ModuleType]) -> None:
    """Let imports inside functions find this build."""
    sys.modules.update(modules)


def step(layer: nn.Module, x: Tensor, grad: Tensor, mode: str) -> None:
    """What is timed."""
    if mode.startswith("eval"):
        with torch.no_grad():
            layer(x)
        return
    out = layer(x.detach().requires_grad_())
    if mode == "both":
        out.backward(grad)


def measure(
    builds: dict[str, dict],
    shape: tuple[int, ...],
    mode: str,
    dtype: torch.dtype = torch.float32,
    form: torch.memory_format = torch.contiguous_format,
) -> dict[str, Any]:
    """Microseconds and ratios of one shape and mode; what warms up is float32 in any case."""
    norm = nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
    layers: dict[str, nn.Module] = {"control": nn.Sequential(norm, nn.ReLU())}
    for word, modules in builds.items():
        use(modules)
        layers[word] = modules["qact.nn.normed"].NormedQAct(shape[1])
    seen, grad = torch.randn(shape), torch.randn(shape)
    x = seen * 1.5 + 2 if mode == "eval, shifted" else seen  # as in speed.py
    x, grad = x.to(dtype, memory_format=form), grad.to(dtype)
    times: dict[str, list[float]] = {word: [] for word in layers}
    for turn in range(-1, ROUNDS):  # the first warms up
        for word, layer in layers.items():
            use(builds.get(word, {}))
            if turn < 0:
                for _ in range(12):
                    layer.train()(seen)
                if word == "control":
                    layer.to(dtype)
                step(layer.train(not mode.startswith("eval")), x, grad, mode)
                continue
            repeats = max(1, VALUES // x.numel())
            start = time.thread_time()
            for _ in range(repeats):
                step(layer, x, grad, mode)
            times[word].append((time.thread_time() - start) / repeats)
    found: dict[str, Any] = {"shape": "x".join(map(str, shape)), "mode": mode}
    found |= {"dtype": str(dtype)[6:], "channels_last": form == torch.channels_last}
    for word, taken in times.items():
        ratios = [t / c for t, c in zip(taken, times["control"], strict=True)]
        found[word] = {
            "us": round(1e6 * statistics.median(taken), 1),
            "ratio": [round(q, 2) for q in statistics.quantiles(ratios, n=4)],
        }
    return found


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--shifted", action="store_true")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--half", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    builds = {"old": build(given.old), "new": build(given.new)}
    wanted: list[tuple[Any, ...]] = [(shape, mode) for shape in SHAPES for mode in MODES]
    if given.few:
        wanted = [(shape, mode) for shape in FEW for mode in ("forward", "both")]
    if given.half:
        wanted = [(s, m, torch.bfloat16) for s in SHAPES[1:] for m in ("forward", "both")]
    if given.eval or given.shifted:
        mode, last = "eval, shifted" if given.shifted else "eval", torch.channels_last
        wanted = [(shape, mode) for shape in READ]
        wanted += [(shape, mode, dtype) for shape in SHAPES for dtype in HALVES]
        wanted += [(shape, mode, torch.float32, last) for shape in SHAPES[1:]]
    rows = []
    for case in wanted:
        rows.append(measure(builds, *case))
        print(rows[-1], flush=True)
    asked = [word for word in ("eval", "shifted", "few", "half") if getattr(given, word)]
    out = given.out or DATA / f"{'-'.join(['cpu', *asked[:1]])}-before-after.json"
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
