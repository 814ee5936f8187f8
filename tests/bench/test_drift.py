import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from qact.bench import Summary
from qact.bench.measure.drift import by_layer, correlations, load_drift, measure_drift
from qact.bench.report.html import render, write_report
from qact.bench.report.terminal import print_drift
from qact.cli.commands import commands


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    from qact.bench import Data, Model, Recipe, Shift, Training

    recipe = Recipe(
        data=Data("digits", 8),
        model=Model("resnet_small", 0.5),
        training=Training(epochs=1, batch=100),
        shift=Shift(corruptions=("contrast",), severities=(0, 3), images=100),
        activations=("relu",),
        seeds=(0,),
    )
    folder = tmp_path_factory.mktemp("drift")
    measure_drift(recipe, folder)
    more = replace(recipe, shift=replace(recipe.shift, corruptions=("contrast", "fog")))
    found = measure_drift(more, folder)
    assert measure_drift(more, folder) == found == load_drift(folder)  # nothing is measured twice
    assert json.loads((folder / "drift.json").read_text())["rows"] == found
    return found


def test_every_layer_has_every_corruption(rows):
    layers = by_layer(rows)["relu"]
    assert len(layers) == len(rows) / 2 > 4
    assert all(set(found) == {"contrast", "fog"} for found in layers.values())
    for row in rows:
        assert row["severity"] == 3
        assert 0 <= row["ks"] <= 1
        assert abs(row["accuracy"]) <= 1


def made(seed, ks, accuracy, activation="relu"):
    return [
        {"activation": activation, "seed": seed, "corruption": "fog", "severity": 5,
         "layer": f"l{i}", "ks": k, "accuracy": a, "lost": 0.5}
        for i, (k, a) in enumerate(zip(ks, accuracy, strict=True))
    ]  # fmt: skip


def test_means_are_over_seeds():
    two = made(0, [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) + made(1, [0.1, 0.2, 0.3], [0.1, 0.2, 0.5])
    means = by_layer(two)["relu"]
    assert {name: found["fog"] for name, found in means.items()} == pytest.approx(
        {"l0": 0.2, "l1": 0.2, "l2": 0.3}
    )
    assert correlations(two) == {"relu": {"fog": pytest.approx((-1 + 1) / 2)}}


def test_terminal_and_page_say_the_same(results, tmp_path):
    two = made(0, [0.1, 0.2], [0.123, -0.05]) + made(0, [0.1, 0.2], [0.2, 0.4], "<b>odd</b>")
    out = io.StringIO()
    print_drift(two, Console(file=out, width=100))
    page = render(Summary(results), two)
    for text in ("12.3", "5.0", "-1.00", "1.00", "l1"):
        assert text in out.getvalue()
        assert text in page.replace("\u2212", "-")
    assert "<b>odd" not in page
    assert '<td class="best">+12.3</td>' in page
    assert "Which layer costs accuracy" not in render(Summary(results))
    (tmp_path / "drift.json").write_text(json.dumps({"rows": two}))
    assert "Which layer costs accuracy" in write_report(Summary(results), tmp_path).read_text()


def test_one_measurement_at_a_time():
    found = CliRunner().invoke(commands, ["bench", "--drift", "--faults"])
    assert found.exit_code == 2
    assert "ask for one" in found.output
