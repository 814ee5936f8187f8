"""`qact bench --scores`: rows, outliers, table, and what is refused."""

import io
import json

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from qact.bench.measure.scores import by_score, measure_scores, quarters, textures
from qact.bench.report.terminal import print_scores
from qact.cli.commands import commands


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    from qact.bench import Data, Model, Recipe, Training

    recipe = Recipe(
        data=Data("digits", 8),
        model=Model("resnet_small", 0.5),
        training=Training(epochs=2, batch=100),
        activations=("relu",),
        seeds=(0,),
    )
    folder = tmp_path_factory.mktemp("scores")
    found = measure_scores(recipe, folder)
    assert measure_scores(recipe, folder) == found  # nothing is measured twice
    assert json.loads((folder / "scores.json").read_text())["rows"] == found
    return found


def test_every_score_has_every_set(rows):
    from qact.scores.registry import SCORES

    names = {name for name in SCORES if SCORES[name].one_pass}
    assert {(row["score"], row["outliers"]) for row in rows} == {
        (name, strange) for name in names for strange in ("textures", "quarters")
    }
    assert all(0 <= row["auroc"] <= 1 and 0 <= row["fpr95"] <= 1 for row in rows)
    noise = by_score([row for row in rows if row["outliers"] == "textures"])
    assert (
        next(iter(noise.values()))["relu"] > 0.7
    )  # after two epochs the best knows noise from digits


def test_the_table(rows):
    out = io.StringIO()
    print_scores(rows, Console(file=out, width=80))
    assert "against textures; mean of 1 seeds" in out.getvalue()
    assert "relative_mahalanobis" in out.getvalue()


def test_outliers_without_data():
    x = textures(6, 3, 16, seed=1)
    assert x.shape == (6, 3, 16, 16)
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal(x, textures(6, 3, 16, seed=1))
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    moved = quarters(image)
    assert moved[0, 0, 0, 0] == 8  # what was below is now above
    assert moved.flatten().sort().values.tolist() == list(range(16))
    assert quarters(torch.rand(2, 1, 5, 5)).shape == (2, 1, 5, 5)


@pytest.mark.parametrize("flags", [["--scores", "--faults"], ["--outliers", "mnist"]])
def test_refusals(flags):
    found = CliRunner().invoke(commands, ["bench", "--quick", *flags])
    assert found.exit_code == 2
