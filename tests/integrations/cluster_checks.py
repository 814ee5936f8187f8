"""What must hold of every engine: the bits of one process, with workers killed in the middle."""

from __future__ import annotations

import json

import torch
from cluster_work import dying_read, network, read

import qact
from qact.bench import Data, Model, Recipe, Shift, Training, run
from qact.bench.measure.metrics import COSTS
from qact.bench.store.files import load_tensors
from qact.datasets.writer import write_corrupted

RECIPE = Recipe(
    data=Data("digits", 8),
    model=Model("resnet_small", 0.5),
    training=Training(epochs=1, batch=200),
    shift=Shift(("contrast",), (0, 5), ("frozen",)),
    activations=("relu", "once"),
    seeds=(0,),
)


def check_record(on, marks):
    shards = [(str(marks), seed) for seed in range(5)]
    there = qact.record(network(), shards, load=dying_read, on=on).state_dict()
    here = qact.record(network(), range(5), load=read).state_dict()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert len(list(marks.glob("shard-*"))) == 2  # two workers did die
    batches = [batch for seed in range(5) for batch in read(seed)]
    whole = qact.record(network(), batches).state_dict()  # each batch by itself: another sum
    for name, value in whole.items():
        counts = name.endswith(("mass", "exponent", "offset", "batches"))
        torch.testing.assert_close(there[name], value, **({"rtol": 0, "atol": 0} if counts else {}))


def check_batches(on):
    """A loader's batches one by one are the very sum that one process makes."""
    batches = [batch for seed in range(3) for batch in read(seed)]
    here, there = (qact.record(network(), batches, **how).state_dict() for how in ({}, {"on": on}))
    assert all(torch.equal(here[name], there[name]) for name in here)


def check_corrupt(on, folder):
    images = torch.randint(0, 256, (600, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    images, labels = images.to(torch.uint8), torch.arange(600) % 10
    names = ("gaussian_noise", "fog")
    for part, where in (("here", None), ("there", on)):
        write_corrupted(images, labels, folder / part, names, seed=7, on=where)
    files = sorted(path.name for path in (folder / "here").iterdir())
    assert files == ["fog.npy", "gaussian_noise.npy", "labels.npy", "manifest.json"]
    for name in files:
        here, there = ((folder / part / name).read_bytes() for part in ("here", "there"))
        assert here == there


def check_bench(on, folder, marks):
    seen = []
    there = run(RECIPE, folder / "there", on=on, imports=("cluster_rivals",), display=spy(seen))
    assert (marks / "cell").exists()  # a worker did die
    here = run(RECIPE, folder / "here", imports=("cluster_rivals",))
    assert measured(here) == measured(there)
    for activation in RECIPE.activations:
        place = f"cells/{activation}-0/weights.safetensors"
        a, b = (load_tensors(folder / part / place)[0] for part in ("here", "there"))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert "training" in {stage for stage, _ in seen}


def measured(results):
    rows = [{k: v for k, v in row.items() if k not in COSTS} for row in results.rows]
    return {json.dumps(row, sort_keys=True) for row in rows}


def spy(seen):
    from qact.bench.runner.progress import Display

    class Spy(Display):
        def advance(self, cell, amount, stage):
            seen.append((stage, amount))

    return lambda total: Spy()
