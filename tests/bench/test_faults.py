import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from qact.bench.measure.faults import by_rate, measure_faults
from qact.bench.report.terminal import print_faults
from qact.cli.commands import commands


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    from qact.bench import Data, Model, Recipe, Training

    recipe = Recipe(
        data=Data("digits", 8),
        model=Model("resnet_small", 0.5),
        training=Training(epochs=2, batch=100),
        activations=("relu", "tanh"),
        seeds=(0,),
    )
    folder = tmp_path_factory.mktemp("faults")
    rates = (0.0, 1e-8, 1e-3)
    found = measure_faults(recipe, folder, trials=4, rates=rates)
    again = measure_faults(recipe, folder, trials=4, rates=rates)
    assert again == found  # nothing is measured twice
    assert json.loads((folder / "faults.json").read_text())["rows"] == found
    return found


def test_every_network_and_its_protected_copies_have_all_rates(rows):
    names = {row["activation"] for row in rows}
    assert names == {"relu", "relu+clipact", "relu+fitact", "relu+proact", "tanh"}
    assert len(rows) == 5 * 2 * 3
    for row in rows:
        assert 0 <= row["worst"] <= row["accuracy"] <= 1


def test_rare_faults_cost_nothing_and_many_cost_much(rows):
    for where in ("weights", "activations"):
        means = by_rate([row for row in rows if row["where"] == where])
        for found in means.values():
            assert found[1e-8] == pytest.approx(found[0.0], abs=0.02)
            assert found[1e-3] < found[0.0]


def test_the_table_has_the_most_resilient_first(rows):
    out = io.StringIO()
    print_faults(rows, Console(file=out, width=100))
    text = out.getvalue()
    for name in (
        "relu+clipact",
        "clean",
        "1e-03",
        "bits of the weights",
        "bits of the activations",
    ):
        assert name in text
    first, *rest = by_rate(rows).values()
    assert all(sum(first.values()) >= sum(other.values()) for other in rest)


def test_the_option(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("qact.bench.recipe.recipe.Recipe", lambda: tiny)
    monkeypatch.setattr(
        "qact.bench.recipe.presets.quick", lambda recipe: replace(recipe, seeds=(0,))
    )
    monkeypatch.setattr("qact.bench.measure.faults.RATES", (0.0, 1e-4))
    arguments = ["bench", "--faults", "--quick", "--activation", "hardtanh"]
    found = CliRunner().invoke(commands, [*arguments, "--out", str(tmp_path / "x")])
    assert found.exit_code == 0, found.output
    assert "bits of the weights flipped" in found.output
    assert "hardtanh" in found.output
    assert (tmp_path / "x" / "faults.json").exists()
