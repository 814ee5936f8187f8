import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from qact.bench import Recipe, Results, Shift
from qact.bench.measure.metrics import measure
from qact.bench.recipe.rows import KEY, mixture, wanted
from qact.bench.recipe.shift import ALL
from qact.bench.report.html import render
from qact.bench.report.streams import Streamed
from qact.bench.report.summary import Stat, Summary
from qact.bench.report.terminal import print_all, print_streams
from qact.bench.report.text import points
from qact.bench.store.join import differences, join

SHIFT = Shift(
    ("fog", "contrast"), (5,), ("source-8", "tent-8"), ("iid", "sorted", "mixed"), images=20
)
SIZES = replace(SHIFT, adaptations=("source-1", "tent-1"), streams=("iid",), images=10)


def made(recipe):
    """Rows of known accuracies: a seed adds a hundredth, TENT a tenth, contrast a fifth."""
    found = Results(
        recipe,
        {n: {"module": n, "paper": "<b>", "control": n == "relu"} for n in recipe.activations},
        {"images": {"test": 20}},
    )
    usual = measure(torch.eye(3), torch.arange(3))
    for activation, loss, seed in recipe.cells():
        rows = []
        for key in wanted(recipe, activation, loss, seed):
            named = dict(zip(KEY, key, strict=True))
            hit = 0.5 + 0.01 * seed + 0.1 * named["adaptation"].startswith("tent")
            hit += 0.2 * (named["corruption"] == "contrast")
            costs = {"ms_per_batch": 2.0, "held_kib": 64.0, "accuracy": hit, "ece": 0.05}
            over = {"over": list(mixture(recipe, key))} if ALL in key else {}
            rows.append(named | usual | costs | over)
        notes = {"history": [], "train_seconds": 0.0, "single_sample_gap": 0.0, "parameters": 1}
        found.add(rows, f"{activation}/{seed}", notes)
    return found


@pytest.fixture
def recipe():
    return Recipe(shift=SHIFT, further=(SIZES,), activations=("relu", "qact"), seeds=(0, 1, 2))


def printed(streamed, width=80):
    console = Console(file=io.StringIO(), width=width)
    print_streams(streamed, console)
    return console.file.getvalue()


def test_means_are_over_conditions_and_gaps_are_paired(recipe):
    streamed = Streamed(made(recipe))
    assert streamed.networks == ["relu", "qact"]
    assert streamed.methods == ["source", "tent"]
    assert [c.name for c in streamed.columns] == ["iid-8", "sorted-8", "mixed-8", "iid-1"]
    first, mixed = streamed.columns[0], streamed.columns[2]
    stat = streamed.stat("relu", "tent", first, "accuracy")
    assert (stat.mean, stat.seeds) == (pytest.approx(0.71), 3)
    assert stat.sd == pytest.approx(0.01)
    assert streamed.stat("relu", "tent", mixed, "accuracy").mean == pytest.approx(0.61)
    gap = streamed.gap("qact", "tent", first)
    assert (gap.mean, gap.sd) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-12))
    assert streamed.gap("qact", "source", first).mean == 0.0


def test_a_mean_waits_for_all_its_conditions(recipe):
    results = made(recipe)
    results.rows = [row for row in results.rows if (row["corruption"], row["seed"]) != ("fog", 1)]
    streamed = Streamed(results)
    assert streamed.stat("relu", "tent", streamed.columns[0], "accuracy").seeds == 2
    assert streamed.gap("relu", "tent", streamed.columns[0]).seeds == 2


def test_frozen_stands_beside_batches_of_any_size(recipe):
    shift = replace(SHIFT, adaptations=("frozen", "tent-8", "tent-4"), streams=("iid",))
    streamed = Streamed(made(replace(recipe, shift=shift, further=())))
    assert [c.name for c in streamed.columns] == ["iid-8", "iid-4"]
    for column in streamed.columns:
        assert streamed.stat("relu", "frozen", column, "accuracy") is not None
        assert streamed.gap("relu", "tent", column).mean == pytest.approx(0.1)


def test_the_usual_bench_has_no_table_of_streams(results):
    assert Streamed(results).columns == []
    assert "Methods by streams" not in render(Summary(results))
    assert printed(Streamed(results)) == ""


def test_several_streams_of_own_adaptations_have_one(recipe):
    shift = Shift(("fog",), (5,), ("frozen", "batch-8"), ("iid", "sorted"))
    streamed = Streamed(made(replace(recipe, shift=shift, further=())))
    assert streamed.methods == ["frozen", "batch"]
    assert [c.name for c in streamed.columns] == ["iid-8", "sorted-8"]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_terminal_keeps_to_80_columns(recipe, seeds):
    text = printed(Streamed(made(replace(recipe, seeds=seeds))))
    assert max(map(len, text.splitlines())) <= 80
    assert "Accuracy, %, by stream: relu" in text
    assert "qact: points against the network as trained" in text
    assert ("+10.0±0.0" in text) == (len(seeds) > 1)
    narrow = printed(Streamed(made(replace(recipe, seeds=seeds))), width=30)
    assert narrow.count("tent") > text.count("tent")
    assert max(map(len, narrow.splitlines())) <= 30


def test_the_page_has_accuracy_costs_gaps_and_calibration(recipe):
    results = made(recipe)
    page = render(Summary(results))
    for text in ("relu: accuracy, %", "relu: points of accuracy", "qact: ECE, %", ">ms<"):
        assert text in page
    assert '+10.0<span class="sd"> ±0.0</span>' in page
    assert "<b>" not in page.partition("Methods by streams")[2].partition("</section>")[0]
    assert "Over severity" not in page  # there is one severity, which the table of streams has


def test_a_bench_without_iid_rows_can_be_shown(recipe):
    shift = replace(SHIFT, streams=("mixed", "continual"))
    summary = Summary(made(replace(recipe, shift=shift, further=())))
    assert summary.methods == []
    assert "mixed" in render(summary)
    console = Console(file=io.StringIO(), width=80)
    print_all(summary, console)
    assert "continual" in console.file.getvalue()


def test_benches_of_other_streams_are_joined(recipe):
    one = replace(recipe, shift=replace(SHIFT, streams=("iid", "mixed")), further=())
    two = replace(recipe, shift=replace(SHIFT, streams=("sorted",)), further=())
    joined = join([made(one), made(two)])
    assert [c.name for c in Streamed(joined).columns] == ["iid-8", "sorted-8", "mixed-8"]
    other = replace(one, shift=replace(one.shift, corruptions=("fog",)))
    assert "streams through fog, contrast / fog" in differences(one, other)


def test_points_and_their_intervals():
    assert points(None) == "–"
    assert points(Stat(-0.05, 0.02, 2)) == "-5.0±18.0"
