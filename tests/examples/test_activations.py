"""Every activation can be drawn, and the page shows the entries as the registry has them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import qact
from qact.activations import entry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "activations.md").read_text(encoding="utf-8")


def load():
    spec = importlib.util.spec_from_file_location(
        "draw_activations", ROOT / "examples" / "activations.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = load()
DRAWN = [name for name in qact.list_activations() if name != "smartmixed"]


@pytest.mark.parametrize("name", DRAWN)
def test_a_curve_is_the_function_and_its_derivative(name):
    x, y, slope = example.curve(entry(name))
    assert x.shape == y.shape == slope.shape
    assert torch.isfinite(y).all()
    if entry(name).pointwise and entry(name).alone and name != "helu":
        smooth = (slope[2:] - slope[:-2]).abs() < 0.05  # away from kinks and jumps
        by_differences = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
        torch.testing.assert_close(
            slope[1:-1][smooth], by_differences[smooth], atol=0.03, rtol=0.03
        )


def test_a_figure_is_written(tmp_path):
    path = example.draw("smooth", example.families()["smooth"], tmp_path)
    text = path.read_text()
    assert text == (ROOT / "docs" / "images" / path.name).read_text()
    for name in example.families()["smooth"]:
        assert name in text


@pytest.mark.parametrize("family", example.families())
def test_the_page_has_every_table_and_figure(family):
    assert example.table(family) in PAGE
    assert f"(images/activations-{family}.svg)" in PAGE
    assert (ROOT / "docs" / "images" / f"activations-{family}.svg").exists()
