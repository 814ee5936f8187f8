"""Recalibration by rank against test-batch BatchNorm, from single samples to batches of 200.

    QACT_DATA=DIR python benchmarks/recalibrate.py

The small residual network with ReLU and BatchNorm, on the digits and on a part of CIFAR-10 (the
networks of `benchmarks/adaptation.py`), three seeds. The options are chosen on validation images
under the corruptions kept for validation; then four others, severity 4, on test images. ``running``
reads one corruption after the other as a stream and starts afresh at each. Results are
written as they come; the same command goes on where it was stopped. ``--table`` prints what is
there, ``--cost`` measures time and memory.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

import adaptation
import qact
from qact.bench.data import Inputs, load_inputs, permutation
from qact.bench.recipe.rivals import rival
from qact.bench.report.summary import Stat
from qact.bench.store.files import write_atomically
from qact.bench.train.network import train_cell

RECIPES = {name: recipe for name, (recipe, _) in adaptation.STUDIES.items()}
HELD_OUT = ("speckle_noise", "gaussian_blur", "spatter")  # to choose on, as in defaults.py
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "contrast")  # to report, as in cifar10.py
SEVERITY = 4
SIZES = (1, 2, 4, 8, 16, 200)
ORDER = (200, 8, 1, 4, 16, 2)
IMAGES = {1: 80, 2: 120, 4: 200, 8: 240, 16: 320}  # others: all, up to 1,000
PRIORS = (8, 32)
SEEDS = (0, 1, 2)

Block = Callable[[nn.Module], AbstractContextManager]


def methods(prior: dict[str, float]) -> dict[str, Block]:
    """What is compared; ``prior`` is chosen for the two ways that have one."""
    mixed, ranks = prior["mixed"], prior["recalibrated"]
    return {
        "frozen": lambda model: nullcontext(),
        "batch": lambda model: qact.adapting(model, "batch"),
        "mixed": lambda model: qact.adapting(model, "mixed", prior=mixed),
        "recalibrated batch": lambda model: qact.recalibrated(model, "batch"),
        "recalibrated mixed": lambda model: qact.recalibrated(model, "mixed", prior=ranks),
        "recalibrated running": lambda model: qact.recalibrated(model, "running", prior=ranks),
        "line running": lambda model: qact.recalibrated(model, "running", prior=ranks, shape=0.0),
    }


inputs_of = cache(lambda data: load_inputs(RECIPES[data].data))


@cache
def trained(data: str, seed: int, runs: Path) -> tuple[nn.Module, Inputs]:
    """The network of a seed, with the contexts of its first 1,000 training images."""
    inputs = inputs_of(data)
    folder = runs / data / str(seed)
    model = train_cell(RECIPES[data], rival("relu"), seed, inputs, folder, lambda n: None).model
    return qact.record(model, inputs.train[0][:1000].split(200)), inputs


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, size: int, block: Block, seed: int) -> float:
    """Percent right over full batches of i.i.d. images."""
    order = permutation(len(y), seed)[: IMAGES.get(size, 1000)]
    parts = [part for part in order.split(size) if len(part) == size]
    with block(model):
        hits = sum(int((model(x[part]).argmax(1) == y[part]).sum()) for part in parts)
    return 100 * hits / (size * len(parts))


def mean_accuracy(
    model: nn.Module, inputs: Inputs, names: tuple[str, ...], size: int, block: Block, seed: int
) -> float:
    """Mean over corruptions."""
    shifted = (inputs.shifted(name, SEVERITY, 1) for name in names)
    return statistics.mean(
        accuracy(model, x, inputs.test_labels, size, block, seed) for x in shifted
    )


def choose(runs: Path) -> dict:
    """Mean validation accuracy of each prior, on CIFAR-10 (the digits are near 100 percent)."""
    found: dict = {"mixed": {}, "recalibrated": {}}
    blocks = {"mixed": qact.adapting, "recalibrated": qact.recalibrated}
    for seed in SEEDS[:2]:
        model, inputs = trained("cifar10", seed, runs)
        images, labels = inputs.val
        raw = (images * inputs.std + inputs.mean).clamp(0, 1)
        held = replace(inputs, test_images=raw, test_labels=labels, _corrupted={})
        for prior in PRIORS:
            for name, block in blocks.items():
                adapted = partial(block, context="mixed", prior=prior)
                scores = [
                    mean_accuracy(model, held, HELD_OUT, size, adapted, seed) for size in (4, 16)
                ]
                found[name].setdefault(str(prior), []).append(statistics.mean(scores))
    return found


def table(results: dict, data: str) -> str:
    """Accuracy in percent, mean and 95% interval over seeds, one row per method."""
    rows = results["accuracy"].get(data, {})
    lines = [
        "| | " + " | ".join(str(size) for size in SIZES) + " |",
        "|---|" + "---:|" * len(SIZES),
    ]
    for name in methods({"mixed": 0, "recalibrated": 0}):
        cells = []
        for size in SIZES:
            values = [v for seed in SEEDS if (v := rows.get(f"{name}/{size}/{seed}")) is not None]
            cells.append(shown(Stat.of(values)) if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(stat: Stat) -> str:
    interval = stat.interval()
    return f"{stat.mean:.1f}" + (f" ± {interval[1] - stat.mean:.1f}" if interval else "")


def gaps(results: dict, data: str, name: str, control: str) -> str:
    """The difference of two methods per batch size, paired by seed."""
    rows, cells = results["accuracy"].get(data, {}), []
    for size in SIZES:
        keys = [(f"{name}/{size}/{seed}", f"{control}/{size}/{seed}") for seed in SEEDS]
        values = [rows[a] - rows[b] for a, b in keys if a in rows and b in rows]
        cells.append(f"{size}: {shown(Stat.of(values))}" if values else f"{size}: -")
    return f"{data}, {name} - {control}: " + ", ".join(cells)


def cost(runs: Path) -> dict:
    """Milliseconds per forward pass (median of 9) and bytes, on one thread."""
    model, inputs = trained("cifar10", 0, runs)
    contexts = sum(
        b.numel() * b.element_size() for n, b in model.named_buffers() if "source_context" in n
    )
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    known = {k: v for k, v in methods({"mixed": 16, "recalibrated": 32}).items() if "line" not in k}
    times = {
        name: {size: milliseconds(model, inputs.train[0][:size], block) for size in (1, 16, 200)}
        for name, block in known.items()
    }
    peak = {
        name: peak_bytes(model, inputs.train[0][:200], block) / 2**20
        for name, block in known.items()
    }
    channels = sum(
        m.num_features for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    )
    return {
        "milliseconds": times,
        "peak_MiB_of_a_forward_pass_at_200": peak,
        "context_bytes": contexts,
        "bytes_per_channel": contexts / channels,
        "weight_bytes": weights,
    }


def cost_table(found: dict) -> str:
    """Milliseconds of a forward pass by batch size, and the most memory of the largest."""
    peaks = found["peak_MiB_of_a_forward_pass_at_200"]
    lines = [
        "| forward pass of | 1 | 16 | 200 images | most memory at 200 |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, times in found["milliseconds"].items():
        cells = [f"{value:.1f} ms" for value in times.values()] + [f"{peaks[name]:.1f} MiB"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@torch.inference_mode()
def milliseconds(model: nn.Module, x: Tensor, block: Block) -> float:
    with block(model):
        model(x)
        runs = []
        for _ in range(9):
            start = time.perf_counter()
            model(x)
            runs.append(time.perf_counter() - start)
    return 1e3 * statistics.median(runs)


@torch.inference_mode()
def peak_bytes(model: nn.Module, x: Tensor, block: Block) -> int:
    """The most memory that a forward pass holds at once, as torch's allocator sees it."""
    with block(model):
        model(x)
        with torch.profiler.profile(profile_memory=True) as profile:
            model(x)
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/recalibrate"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/recalibrate.json"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cost", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text()) if options.out.exists() else {"accuracy": {}}
    results |= {"command": "python benchmarks/recalibrate.py", "torch": torch.__version__}

    def save() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())

    if options.cost:
        results["cost"] = cost(options.runs)
        save()
    if not options.table and not options.cost:
        if "validation" not in results:
            results["validation"] = choose(options.runs)
            save()
        prior = {
            name: float(max(scores, key=lambda p: statistics.mean(scores[p])))
            for name, scores in results["validation"].items()
        }
        measure(results, methods(prior), options.runs, save)
    for data in RECIPES:
        print(f"\n{data}\n{table(results, data)}\n")
        for control in ("batch", "mixed"):
            print(gaps(results, data, "recalibrated mixed", control))
            print(gaps(results, data, "recalibrated running", control))
        print(gaps(results, data, "recalibrated batch", "batch"))
        print(gaps(results, data, "recalibrated running", "line running"))
    if "cost" in results:
        print(f"\n{cost_table(results['cost'])}")


def measure(results: dict, known: dict[str, Block], runs: Path, save: Callable[[], None]) -> None:
    """Fill in what is missing, the sizes that matter most first, all seeds of each."""
    for size in ORDER:
        for seed in SEEDS:
            for data in RECIPES:
                rows = results["accuracy"].setdefault(data, {})
                missing = [name for name in known if f"{name}/{size}/{seed}" not in rows]
                for name in missing:
                    model, inputs = trained(data, seed, runs)
                    score = mean_accuracy(model, inputs, CORRUPTIONS, size, known[name], seed)
                    rows[f"{name}/{size}/{seed}"] = score
                    save()
        print(f"size {size} done", flush=True)


if __name__ == "__main__":
    main()
