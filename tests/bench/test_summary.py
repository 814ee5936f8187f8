import io
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from rich.console import Console

from qact.bench import Stat, Summary
from qact.bench.report.terminal import print_summary


def accuracies(results, **where):
    return [
        row["accuracy"]
        for row in results.rows
        if all(row[name] in values for name, values in where.items())
    ]


def test_means_are_over_corruptions_then_seeds(results):
    found = Summary(results).at(("relu", "frozen"), 5, "accuracy")
    per_seed = [
        fmean(
            accuracies(
                results, activation=["relu"], adaptation=["frozen"], severity=[5], seed=[seed]
            )
        )
        for seed in range(3)
    ]
    assert found == Stat(fmean(per_seed), stdev(per_seed), 3)


def test_shifted_leaves_the_clean_images_out(results):
    found = Summary(results).shifted(("relu", "frozen"), "accuracy")
    rows = accuracies(results, activation=["relu"], adaptation=["frozen"], severity=[1, 5])
    assert found.mean == pytest.approx(fmean(rows))


def test_the_strongest_control_is_a_control(results):
    summary = Summary(results)
    control = summary.control()
    assert control[0] == "relu"
    assert summary.shifted(control, "accuracy").mean == max(
        summary.shifted(m, "accuracy").mean for m in summary.methods if m[0] == "relu"
    )
    assert summary.gap(control, "accuracy") == Stat(0.0, 0.0, 3)


def test_gap_interval_is_students(results):
    # Hand-computed: t(0.975, 2 degrees) = 4.3027; mean 2, deviation 1, three seeds.
    low, high = Stat.of([1.0, 2.0, 3.0]).interval()
    assert (low, high) == (
        pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4),
        pytest.approx(2 + 4.30265 / 3**0.5, abs=1e-4),
    )
    assert Stat.of([1.0]).interval() is None
    assert Stat.of([]) is None


def test_incomplete_seeds_do_not_enter_a_mean(results):
    from dataclasses import replace

    dropped = [
        row
        for row in results.rows
        if not (row["seed"] == 2 and row["corruption"] == "fog" and row["activation"] == "relu")
    ]
    summary = Summary(replace(results, rows=dropped))
    assert summary.at(("relu", "frozen"), 5, "accuracy").seeds == 2
    assert summary.at(("qact", "frozen"), 5, "accuracy").seeds == 3
    assert summary.gap(("qact", "frozen"), "accuracy").seeds == 2


def test_pooled_bins_keep_every_prediction(results):
    bins = Summary(results).bins(("relu", "frozen"), 5)
    assert sum(count for count, *_ in bins) == 40 * 3 * 2
    right = sum(count * hit for count, _, hit in bins)
    rows = accuracies(results, activation=["relu"], adaptation=["frozen"], severity=[5])
    assert right / 240 == pytest.approx(fmean(rows), abs=1e-5)


def test_frozen_rows_that_depend_on_neighbours_are_exposed(results):
    from dataclasses import replace

    assert Summary(results).leaking() == {}
    cells = results.cells | {"qact/1": results.cells["qact/1"] | {"single_sample_gap": 0.5}}
    summary, text = Summary(replace(results, cells=cells)), io.StringIO()
    assert summary.leaking() == {"qact": 0.5}
    print_summary(summary, Console(file=text, width=200))
    assert "! qact: with stored statistics a logit still depends on the other" in text.getvalue()


def test_the_table_fits_80_columns(results):
    text = io.StringIO()
    print_summary(Summary(results), Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("◆ relu" in line for line in lines)
    assert any("strongest control: relu" in line for line in lines)
    assert "…" not in text.getvalue()


def test_methods_of_different_seeds_are_said_to_be(results):
    fewer = [row for row in results.rows if row["activation"] != "relu" or row["seed"] < 2]
    summary = Summary(replace(results, rows=fewer))
    assert summary.spread() == (2, 3)
    text = io.StringIO()
    print_summary(summary, Console(file=text, width=80))
    assert "mean±sd of 2 to 3 seeds" in text.getvalue()
    assert Summary(results).spread() == (3, 3)
