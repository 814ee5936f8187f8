"""Safe adaptation next to the source and to batch statistics, on images that chose it.

    python benchmarks/safe.py digits clusters
    QACT_DATA=DIR python benchmarks/safe.py cifar10
    QACT_DATA=DIR python benchmarks/safe.py --test digits cifar10

Validation images under corruptions that the test streams do not have: mild ones, the same on top of
blur and spatter ("hard"), severe ones under which the source predicts few classes ("collapse"), and
images of little contrast on an uneven grey ("exposure"); every stream at batch 64, i.i.d. batches of
other sizes; and a dense network on clusters of points, without a shift and under two affine ones.
The ablation leaves out one rule at a time, for one seed. ``--test`` runs test images under other
corruptions, for which nothing was chosen. Rows go to `benchmarks/data/safe.csv` as they come, and a
stopped run goes on; `benchmarks/safe_table.py` prints the tables.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from qact import QAct, adapt
from qact.adapt import followers, shrinkage
from qact.bench import Data, Model, Recipe, Training
from qact.bench.inputs import Inputs, load_inputs
from qact.bench.rivals import rival
from qact.bench.train import train_cell
from qact.shift import corrupt, streams

Batches = list[tuple[Tensor, Tensor, str]]
HELD_OUT = ("speckle_noise", "gaussian_blur", "spatter")
CORRUPTIONS = {
    "mild": HELD_OUT,
    "hard": HELD_OUT,
    "collapse": ("impulse_noise", "frost", "fog", "brightness"),
    "exposure": ("motion_blur", "zoom_blur", "pixelate"),
    "test": ("gaussian_noise", "defocus_blur", "snow", "contrast"),
}
COUNT, FEW = 256, 64  # images of a corruption; in streams of batches below 16
PLANS = [(name, 64) for name in streams.names()] + [("iid", size) for size in (1, 4, 16, 256)]
SHORT = [("iid", 64), ("sorted", 64), ("mixed", 64), ("continual", 64), ("iid", 4)]
POINTS = [(order, size) for order in ("iid", "sorted") for size in (64, 16, 4)]
SEVERE = ("collapse", "exposure")
ACTIVATIONS = ("relu", "qact")
STUDIES = {
    "digits": Recipe(),
    "cifar10": Recipe(
        data=Data("cifar10", limit=6_000),
        model=Model("resnet_small", 1.0),
        training=Training(epochs=8, batch=50, lr=0.01),
    ),
}
STRENGTH = {"digits": 5, "cifar10": 2}  # of the blur and the spatter below the hard streams
CONTRAST = {"digits": 0.2, "cifar10": 0.4}  # of the unevenly exposed images
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "0.8x + 0.3": lambda x: 0.8 * x + 0.3,
    "1.5x + 1": lambda x: 1.5 * x + 1.0,
}
FIELDS = (
    *("study", "level", "activation", "seed", "method", "stream", "batch"),
    *("n", "accuracy", "cpu_ms_per_batch"),
)


def every_sample_counts(labels: Tensor, classes: int) -> float:
    return float(len(labels))


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


def validation(inputs: Inputs, study: str, level: str) -> tuple[Tensor, Tensor]:
    """Validation images in [0, 1], the hard ones corrupted once already, and labels."""
    images = (inputs.val[0] * inputs.std + inputs.mean).clamp(0, 1)[:COUNT]
    if level == "hard":
        for seed, kind in ((7, "gaussian_blur"), (8, "spatter")):
            images = corrupt(images, kind, STRENGTH[study], seed=seed)
    if level == "exposure":
        images = uneven(images, CONTRAST[study])
    return images, inputs.val[1][:COUNT]


def uneven(images: Tensor, contrast: float) -> Tensor:
    """Images of little contrast on a level of grey that changes from one to the next."""
    draw = torch.Generator().manual_seed(9)
    grey = 0.4 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=draw)
    return contrast * images + (1 - contrast) * grey


def image_stream(study: str, level: str, name: str, batch: int) -> tuple[Batches, bool]:
    """The batches of a stream, and whether every condition is a start of its own."""
    inputs = load_inputs(STUDIES[study].data)
    if level == "test":
        images, labels = inputs.test_images[:COUNT], inputs.test_labels[:COUNT]
    else:
        images, labels = validation(inputs, study, level)
    count = FEW if batch < 16 else COUNT
    stream = streams.stream(
        name,
        images[:count],
        labels[:count],
        batch=batch,
        corruptions=CORRUPTIONS[level],
        transform=inputs.normalised,
    )
    return [tuple(b) for b in stream], stream.fresh


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ten normal clusters in 16 dimensions, and which one each point is of."""
    centres = 0.9 * torch.randn(10, 16, generator=torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=draw)
    return centres[labels] + torch.randn(count, 16, generator=draw), labels


def point_stream(level: str, order: str, batch: int) -> tuple[Batches, bool]:
    """Points of all clusters, shuffled or sorted by label."""
    x, y = clusters(960, 2)
    at = torch.arange(960) if order == "iid" else y.argsort(stable=True)
    at = at[::4] if batch < 16 else at
    x, y = SHIFTS[level](x[at]), y[at]
    return [(a, b, level) for a, b in zip(x.split(batch), y.split(batch), strict=True)], False


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
