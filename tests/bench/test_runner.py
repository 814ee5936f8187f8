import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from qact.activations.registry import ACTIVATIONS
from qact.bench import Rival, load_results, run
from qact.bench.errors import BenchError, CellError, DamagedFileError, RecipeError
from qact.bench.measure.metrics import COSTS, METRICS
from qact.bench.store.files import load_tensors


def weights(folder):
    return {
        path.parent.name: path.read_bytes() for path in folder.glob("cells/*/weights.safetensors")
    }


def measured(results):
    """Rows without their order and their times."""
    return {
        json.dumps({k: v for k, v in row.items() if k not in COSTS}, sort_keys=True)
        for row in results.rows
    }


def test_end_to_end(tiny, tmp_path):
    results = run(replace(tiny, seeds=(0, 1)), tmp_path)
    assert len(results.rows) == 2 * 2 * 3  # seeds, adaptations, conditions
    assert all(row[metric] >= 0 for row in results.rows for metric in METRICS)
    assert {sum(row["bins"]["count"]) for row in results.rows} == {500}
    assert all(notes["single_sample_gap"] < 1e-9 for notes in results.cells.values())
    read = load_results(tmp_path)
    assert (read.recipe, read.rows) == (results.recipe, results.rows)
    with open(tmp_path / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["accuracy"]) for line in table] == [r["accuracy"] for r in results.rows]


def test_nothing_is_done_twice(tiny, tmp_path, monkeypatch):
    run(tiny, tmp_path)
    before = (tmp_path / "results.json").read_text()
    monkeypatch.setattr("qact.bench.runner.bench.run_cells", None)  # would raise if it were called
    run(tiny, tmp_path)
    assert (tmp_path / "results.json").read_text() == before


def test_more_activations_seeds_and_corruptions_add_only_what_is_new(tiny, tmp_path, register):
    register(Rival("mine", lambda channels: nn.Tanh(), "none"))
    seen = []

    class Spy:
        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def start(self, cell, total):
            seen.append([cell, 0])

        def advance(self, cell, amount, stage):
            seen[-1][1] += (stage == "measuring") * amount

        def done(self, cell, text):
            pass

    def more(**changes):
        seen.clear()
        results = run(replace(tiny, **changes), tmp_path, display=lambda total: Spy())
        return results, [(cell, amount // 500) for cell, amount in seen]

    _, cells = more()
    assert cells == [("relu/0", 6)]
    relu = weights(tmp_path)
    _, cells = more(activations=("relu", "mine"))
    assert cells == [("mine/0", 6)]
    _, cells = more(seeds=(0, 1))
    assert cells == [("relu/1", 6)]
    results, cells = more(shift=replace(tiny.shift, corruptions=("gaussian_noise", "fog")))
    assert cells == [("relu/0", 2)]
    assert weights(tmp_path)["relu-0"] == relu["relu-0"]
    assert len(results.rows) == 3 * 6 + 2
    assert results.recipe.activations == ("relu", "mine")
    assert results.recipe.seeds == (0, 1)


@pytest.mark.own_seed  # that of other processes
def test_processes_side_by_side_give_the_same_bits(tiny, tmp_path):
    recipe = replace(tiny, seeds=(0, 1))
    one = run(recipe, tmp_path / "one")
    two = run(recipe, tmp_path / "two", jobs=2)
    assert measured(one) == measured(two)
    for name, content in weights(tmp_path / "one").items():
        a, _ = load_tensors(tmp_path / "one" / "cells" / name / "weights.safetensors")
        b, _ = load_tensors(tmp_path / "two" / "cells" / name / "weights.safetensors")
        assert content
        assert all(torch.equal(a[key], b[key]) for key in a)


SCRIPT = """
import sys, json
from qact.bench import Recipe, run
run(Recipe.from_dict(json.loads(sys.argv[1])), sys.argv[2], jobs=int(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_kill_minus_nine_and_resume(tiny, tmp_path, jobs):
    recipe = replace(tiny, training=replace(tiny.training, epochs=30), seeds=(0, 1))
    arguments = [json.dumps(recipe.as_dict()), str(tmp_path / "cut"), str(jobs)]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE)
    while not list(tmp_path.glob("cut/cells/*/checkpoint.safetensors")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=900)  # the pipe is closed when no worker is left
    assert not (tmp_path / "cut" / "results.json").exists()
    resumed, whole = run(recipe, tmp_path / "cut"), run(recipe, tmp_path / "whole")
    assert measured(resumed) == measured(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"format": "qact-bench/1"', '"format": "other"'),
        lambda text: text.replace('"brier":', '"brior":', 1),
        lambda text: text.replace('"epochs": 3', '"epochs": -3'),
        lambda text: text.replace('"recipe"', '"ecipe"'),
    ],
)
def test_a_damaged_results_file_is_named_and_nothing_is_lost(tiny, tmp_path, damage):
    recipe = replace(tiny, training=replace(tiny.training, epochs=3))
    first = run(recipe, tmp_path)
    path, kept = tmp_path / "results.json", weights(tmp_path)
    broken = damage(path.read_text())
    assert broken != path.read_text()
    path.write_text(broken)
    with pytest.raises(DamagedFileError, match=r"results\.json.*Move the file away"):
        run(recipe, tmp_path)
    assert path.read_text() == broken
    path.rename(tmp_path / "old")  # what the message advises
    again = run(recipe, tmp_path)
    assert measured(again) == measured(first)
    assert weights(tmp_path) == kept


def test_one_failing_cell_does_not_cost_the_others(tiny, tmp_path, register):
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("no luck")

    register(Rival("broken", lambda channels: Broken(), "none"))
    recipe = replace(tiny, activations=("broken", "relu"))
    with pytest.raises(CellError, match=r"broken/0: ZeroDivisionError: no luck"):
        run(recipe, tmp_path)
    assert {row["activation"] for row in load_results(tmp_path).rows} == {"relu"}


def test_another_recipe_in_the_same_folder_is_refused(tiny, tmp_path, register):
    run(tiny, tmp_path)
    other = replace(tiny, training=replace(tiny.training, epochs=2))
    with pytest.raises(RecipeError, match=r"training\.epochs: 3 there, 2 here.*another --out"):
        run(other, tmp_path)


def test_an_activation_that_changed_is_noticed(tiny, tmp_path, register):
    mine = replace(tiny, activations=("mine",))
    register(Rival("mine", lambda channels: nn.ReLU(), "none"))
    run(mine, tmp_path)
    ACTIVATIONS.remove("mine")
    register(Rival("mine", lambda channels: nn.ReLU6(), "none"))
    with pytest.raises(RecipeError, match=r"mine: ReLU\(\).* there, .*ReLU6\(\)"):
        run(mine, tmp_path)


def test_mistakes_are_found_before_training(tiny, tmp_path):
    for change, message in (
        ({"shift": replace(tiny.shift, corruptions=("haze",))}, "unknown corruption 'haze'; known"),
        ({"shift": replace(tiny.shift, adaptations=("batch-501",))}, "501 test images, there are"),
        ({"activations": ("swosh",)}, r"unknown activation 'swosh'; .*known: .*relu"),
        ({"data": replace(tiny.data, name="digitz")}, "digitz"),
    ):
        with pytest.raises(RecipeError, match=message):
            run(replace(tiny, **change), tmp_path)
    assert not (tmp_path / "cells").exists()
    with pytest.raises(RecipeError, match="jobs must be at least 1, got 0"):
        run(tiny, tmp_path, jobs=0)


def test_a_second_run_in_the_same_folder_waits_its_turn(tiny, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BenchError, match="another run is at work"):
            run(tiny, tmp_path)
