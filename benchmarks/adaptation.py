"""Every adaptation method on every stream: accuracy, calibration, time and memory.

    python benchmarks/adaptation.py digits
    QACT_DATA=DIR python benchmarks/adaptation.py cifar10

The networks are those of `qact bench` (digits) and of `benchmarks/cifar10.py` (a slim residual
network on 5,400 images), with ReLU and with QAct. Methods have their published settings, but for
CoTTA, which gets 4 views instead of 32. Four corruptions, severity 5, the first test images,
batches of 64 unless another size is said; methods are reset where a stream says so, else never.
Times are of one thread's processor, the median over batches. Rows are written as they come, and a
stopped run goes on where it was.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qact import adapt
from qact.bench import Data, Model, Recipe, Training
from qact.bench.inputs import Inputs, load_inputs
from qact.bench.rivals import rival
from qact.bench.train import train_cell
from qact.calibration import accuracy, calibration_error
from qact.shift import streams

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "snow", "contrast")  # every second of the bench
HELD_OUT = ("speckle_noise", "gaussian_blur", "spatter")  # for choosing, never reported
BATCH = 64
SIZES = (1, 4, 16, 256)
FEW = 64  # images of a corruption in the streams of batches below 16
OPTIONS: dict[str, dict[str, Any]] = {"cotta": {"views": 4}}
FIELDS = (
    *("study", "activation", "seed", "method", "stream", "batch", "mode"),
    *("n", "accuracy", "ece", "cpu_ms_per_batch", "held_kib"),
)
KEY = FIELDS[:6]
ACTIVATIONS = ("relu", "qact")
STUDIES = {
    "digits": (Recipe(), 256),
    "cifar10": (
        Recipe(
            data=Data("cifar10", limit=6_000),
            model=Model("resnet_small", 1.0),
            training=Training(epochs=8, batch=50, lr=0.03),
        ),
        512,
    ),
}


def plans() -> list[tuple[str, int]]:
    """Streams and batch sizes, the most telling first."""
    return [(name, BATCH) for name in streams.names()] + [("iid", size) for size in SIZES]


def validation(inputs: Inputs) -> Inputs:
    """The validation images in the place of the test images."""
    raw = (inputs.val[0] * inputs.std + inputs.mean).clamp(0, 1)
    return replace(inputs, test_images=raw, test_labels=inputs.val[1], _corrupted={})


def stream_of(inputs: Inputs, count: int, name: str, batch: int, seed: int, kinds: tuple) -> Any:
    """One stream of a study's test images."""
    count = min(count, FEW) if batch < 16 else count
    return streams.stream(
        name,
        inputs.test_images[:count],
        inputs.test_labels[:count],
        batch=batch,
        corruptions=kinds,
        seed=seed,
        transform=lambda x: (x - inputs.mean) / inputs.std,
    )


def measure(method: adapt.Method, stream: streams.Stream) -> dict[str, Any]:
    """Run a method through a stream; garbage is passed but not counted."""
    logits, labels, seconds, last = [], [], [], None
    for x, y, condition in stream:
        if stream.fresh and condition != last:
            method.reset()
        last = condition
        begin = time.process_time()
        found = method(x)
        seconds.append(time.process_time() - begin)
        logits.append(found[y >= 0])
        labels.append(y[y >= 0])
    # A real image without a finite prediction counts as a uniform one.
    every, truth = torch.cat(logits).nan_to_num(0.0, 0.0, 0.0), torch.cat(labels)
    probs = every.double().softmax(1)
    return {
        "mode": method.mode,
        "n": len(truth),
        "accuracy": round(accuracy(probs, truth), 4),
        "ece": round(calibration_error(probs, truth, n_bins=15), 4),
        "cpu_ms_per_batch": round(1e3 * sorted(seconds)[len(seconds) // 2], 2),
        "held_kib": round(held(method) / 1024, 1),
    }


def held(method: adapt.Method) -> int:
    """Bytes of all tensors that a method keeps from batch to batch, its model included."""
    seen: dict[int, int] = {}
    stack: list[Any] = [method]
    visited: set[int] = set()
    while stack:
        item = stack.pop()
        if id(item) in visited:
            continue
        visited.add(id(item))
        if isinstance(item, Tensor):
            seen[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
            stack.append(item.grad if item.is_leaf else None)
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            stack += list(item)
        elif isinstance(item, nn.Module | torch.optim.Optimizer) or type(item).__module__ in (
            "qact.adapt.memory",
            "qact.adapt.delta",
            "qact.adapt.safe",
        ):
            stack.append(vars(item))
    return sum(seen.values())


def options_of(name: str, inputs: Inputs) -> dict[str, Any]:
    """Published settings; EATA and AQR get source images, for Fisher information and contexts."""
    takes_source = name in ("eata", "aqr")
    return {"source": inputs.train[0][:2000]} if takes_source else OPTIONS.get(name, {})


def cells(study: str, names: list[str], seeds: int) -> Iterator[tuple]:
    """Keys of all rows, seed by seed."""
    for seed in range(seeds):
        for stream, batch in plans():
            for activation in ACTIVATIONS:
                for method in names:
                    yield (study, activation, seed, method, stream, batch)


def done(path: Path) -> set[tuple]:
    """Keys of the rows that are there."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (r["study"], r["activation"], int(r["seed"]), r["method"], r["stream"], int(r["batch"]))
        for r in rows
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--methods", nargs="*", default=adapt.methods())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/adaptation"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe, count = STUDIES[options.study]
    inputs = load_inputs(recipe.data)
    path = options.out / f"{options.study}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    there, models = done(path), {}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not there and not path.stat().st_size:
            writer.writeheader()
        for key in cells(options.study, options.methods, options.seeds):
            if key in there:
                continue
            _, activation, seed, name, stream, batch = key
            if (activation, seed) not in models:
                folder = options.runs / options.study / f"{activation}-{seed}"
                cell = train_cell(recipe, rival(activation), seed, inputs, folder, lambda n: None)
                models[activation, seed] = cell.model
            method = adapt.create(name, models[activation, seed], **options_of(name, inputs))
            row = measure(method, stream_of(inputs, count, stream, batch, seed, CORRUPTIONS))
            writer.writerow(dict(zip(KEY, key, strict=True)) | row)
            file.flush()
            print(*key[1:], row["accuracy"], row["ece"], row["cpu_ms_per_batch"], flush=True)


if __name__ == "__main__":
    main()
