"""Safe adaptation next to the source and to batch statistics, on images that chose it.

    python benchmarks/safe.py digits clusters
    QACT_DATA=DIR python benchmarks/safe.py cifar10
    QACT_DATA=DIR python benchmarks/safe.py --test digits cifar10

Validation images under corruptions that the test streams do not have: mild ones, the same on top of
blur and spatter ("hard"), severe ones under which the source predicts few classes ("collapse"), and
images of little contrast on an uneven grey ("exposure"); every stream at batch 64, i.i.d. batches
of other sizes. A dense network on clusters of points, without a shift and under two affine ones.
The ablation leaves out one rule at a time, for one seed. ``--test`` runs test images under other
corruptions, for which nothing was chosen. Rows go to `benchmarks/data/safe.csv` as they come, and a
stopped run goes on; `benchmarks/safe_table.py` prints the tables.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from qact import QAct, adapt
from qact.adapt import followers, shrinkage
from qact.bench.data import load_inputs
from qact.bench.recipe.rivals import rival
from qact.bench.train.network import train_cell
from qact.shift import streams
from safe_streams import SHIFTS, STUDIES, Batches, clusters, image_stream, point_stream

PLANS = [(name, 64) for name in streams.names()] + [("iid", size) for size in (1, 4, 16, 256)]
SHORT = [("iid", 64), ("sorted", 64), ("mixed", 64), ("continual", 64), ("iid", 4)]
POINTS = [(order, size) for order in ("iid", "sorted") for size in (64, 16, 4)]
SEVERE = ("collapse", "exposure")
ACTIVATIONS = ("relu", "qact")
FIELDS = (
    *("study", "level", "activation", "seed", "method", "stream", "batch"),
    *("n", "accuracy", "cpu_ms_per_batch"),
)


def every_sample_counts(shares: Tensor, count: int) -> float:
    return float(count)


def plain_stein(drift: float, correlation: float, size: float, caution: float) -> float:
    return max(0.0, 1 - caution * correlation / size / drift) if drift > 0 else 0.0


def moments_only(self: followers.ContextFollower, seen: Any) -> float:
    source, spread = self.source.std**2, seen.std**2
    apart = shrinkage.normal_distance(seen.mean - self.source.mean, source, spread)
    return shrinkage.drift(apart, source, spread)


def by_the_source(apart: Tensor, source: Tensor, seen: Tensor) -> float:
    return float(apart.sum() / source.sum())


# Options of `safe`, and what stands in for a part of it.
ABLATION: dict[str, tuple[dict[str, Any], list[tuple[Any, str, Any]]]] = {
    "safe": ({}, []),
    "caution 1": ({"caution": 1.0}, []),
    "caution 2": ({"caution": 2.0}, []),
    "caution 5": ({"caution": 5.0}, []),
    "capacity 64": ({"capacity": 64}, []),
    "all samples count": ({}, [(adapt.safe, "effective_size", every_sample_counts)]),
    "rho = 1": ({}, [(followers, "correlation", lambda means, variance: 1.0)]),
    "drift not bounded": ({}, [(followers, "share", plain_stein)]),
    "follow in full": ({}, [(followers, "share", lambda *numbers: 1.0)]),
    "drift by the source": ({}, [(followers, "drift", by_the_source)]),
    "one pass": ({"passes": 1}, []),
    "all domains": ({}, [(adapt.safe, "another_domain", lambda *old_and_new: False)]),
    "contexts by moments": ({}, [(followers.ContextFollower, "_drift", moments_only)]),
}


def dense(activation: str, seed: int) -> nn.Module:
    """Two hidden layers of 32, trained on 2,048 points."""
    torch.manual_seed(seed)
    norm = {"qact": lambda: [QAct(32)], "relu": lambda: [nn.BatchNorm1d(32), nn.ReLU()]}[activation]
    layers = (nn.Linear(16, 32), *norm(), nn.Linear(32, 32), *norm(), nn.Linear(32, 10))
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = clusters(2048, 1)
    for step in range(300):
        part = torch.arange(64) + 64 * (step % 32)
        loss = nn.functional.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def network(study: str, activation: str, seed: int, runs: Path) -> nn.Module:
    """A trained network, loaded if it is there."""
    if study == "clusters":
        return dense(activation, seed)
    recipe, folder = STUDIES[study], runs / study / f"{activation}-{seed}"
    inputs = load_inputs(recipe.data)
    return train_cell(recipe, rival(activation), seed, inputs, folder, lambda n: None).model


def measure(method: adapt.Method, batches: Batches, fresh: bool) -> dict[str, Any]:
    """Accuracy over a stream; garbage (label -1) is passed but not counted."""
    hits, seconds, last = [], [], None
    for x, y, condition in batches:
        if fresh and condition != last:
            method.reset()
        last = condition
        begin = time.process_time()
        logits = method(x)
        seconds.append(time.process_time() - begin)
        hits.append((logits.nan_to_num().argmax(1) == y)[y >= 0])
    every = torch.cat(hits)
    return {
        "n": len(every),
        "accuracy": round(every.double().mean().item(), 5),
        "cpu_ms_per_batch": round(1e3 * sorted(seconds)[len(seconds) // 2], 2),
    }


def plans(study: str, test: bool) -> Iterator[tuple[str, str, int, list[str]]]:
    """Level, stream, batch size and the methods to run there."""
    simple = ["source", "batch", "safe"]
    if study == "clusters":
        yield from ((level, *p, simple + list(ABLATION)[1:]) for level in SHIFTS for p in POINTS)
        return
    for level in ("test",) if test else ("mild", "hard", "collapse", "exposure"):
        yield from ((level, *plan, simple) for plan in PLANS)
    if not test:
        yield from (("hard", *plan, list(ABLATION)[1:]) for plan in SHORT)
        yield from ((v, *p, list(ABLATION)[1:]) for v in SEVERE for p in SHORT[:4:3])


def cells(study: str, test: bool, seeds: int) -> Iterator[tuple[tuple, bool]]:
    """Keys of all rows."""
    for level, stream, batch, methods in plans(study, test):
        for activation in ACTIVATIONS:
            for seed in range(seeds):
                for method in methods:
                    if wanted(method, activation, seed):
                        yield (study, level, activation, seed, method, stream, batch)


def wanted(method: str, activation: str, seed: int) -> bool:
    """The ablation has one seed, and ReLU networks have no contexts."""
    simple = method in ("source", "batch", "safe")
    return simple or (seed == 0 and (activation == "qact" or method != "contexts by moments"))


def row_of(key: tuple, model: nn.Module, batches: Batches, fresh: bool) -> dict[str, Any]:
    """Run one cell, with the stand-ins of an ablation."""
    options, parts = ABLATION.get(key[4], ({}, []))
    name = key[4] if key[4] in ("source", "batch") else "safe"
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(patch.object(*part))
        return measure(adapt.create(name, model, **options), batches, fresh)


def read(path: Path) -> dict[tuple, dict[str, str]]:
    """The rows that are there, by key."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = ("study", "level", "activation", "method", "stream")
    return {
        (*(r[k] for k in keys[:3]), int(r["seed"]), *(r[k] for k in keys[3:]), int(r["batch"])): r
        for r in rows
    }


def run(keys: list[tuple], path: Path, runs: Path) -> None:
    """Fill in the rows that are missing."""
    there, models, streamed = read(path), {}, {}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not there and not path.stat().st_size:
            writer.writeheader()
        for key in keys:
            study, level, activation, seed, _, stream, batch = key
            if key in there:
                continue
            if (study, activation, seed) not in models:
                models[study, activation, seed] = network(study, activation, seed, runs)
            if (study, level, stream, batch) not in streamed:
                make = point_stream if study == "clusters" else image_stream
                where = (level,) if study == "clusters" else (study, level)
                streamed = {(study, level, stream, batch): make(*where, stream, batch)}
            found = streamed[study, level, stream, batch]
            row = row_of(key, models[study, activation, seed], *found)
            writer.writerow(dict(zip(FIELDS, key, strict=False)) | row)
            file.flush()
            print(*key, row["accuracy"], row["cpu_ms_per_batch"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="+", choices=[*STUDIES, "clusters"])
    parser.add_argument("--test", action="store_true", help="test images, once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/safe"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/safe.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for study in options.studies:
        run(list(cells(study, options.test, options.seeds)), options.out, options.runs)


if __name__ == "__main__":
    main()
