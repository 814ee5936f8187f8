"""The claims of the failure mode, in a quick version: one seed, fewer steps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import qact
from qact.functional import quantile_activation

FILE = Path(__file__).parents[2] / "examples" / "failure_mode.py"


def load():
    spec = importlib.util.spec_from_file_location("failure_mode", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


example = load()
WANTED = ("shift and scale", "increasing maps", "flips, symmetric", "flips, lopsided")


@pytest.fixture(scope="module")
def results():
    families = tuple(f for f in example.FAMILIES if f.name in WANTED)
    return example.run(seeds=1, share=0.6, families=families)


def one(results, family, method, protocol="one"):
    return results[family, method][0][protocol]


def test_without_a_context_the_labels_contradict(results):
    assert one(results, "shift and scale", "none") <= 60


@pytest.mark.parametrize("method", ["BatchNorm", "QAct", "QAct step"])
def test_batches_of_one_context_solve_shift_and_scale(results, method):
    assert one(results, "shift and scale", method) >= 95


def test_a_step_rank_undoes_increasing_maps_sooner_than_batchnorm(results):
    assert one(results, "increasing maps", "QAct step") >= 95
    assert one(results, "increasing maps", "BatchNorm") <= 92


@pytest.mark.parametrize("method", ["none", "BatchNorm", "QAct"])
def test_nothing_undoes_the_flip_of_a_symmetric_distribution(results, method):
    assert abs(one(results, "flips, symmetric", method) - 50) <= 5


@pytest.mark.parametrize("method", ["QAct", "QAct step"])
def test_a_rank_does_not_see_the_flip_of_a_lopsided_distribution(results, method):
    assert abs(one(results, "flips, lopsided", method) - 50) <= 6


@pytest.mark.parametrize("protocol", ["mixed", "single"])
@pytest.mark.parametrize("method", ["BatchNorm", "QAct"])
def test_mixed_batches_and_single_samples_are_as_bad_as_no_context(results, method, protocol):
    assert one(results, "shift and scale", method, protocol) <= 60


def test_ranks_of_mirror_images_add_up_to_one():
    z = torch.randn(257, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"grounded": False, "engine": "reference"}
    smooth = [quantile_activation(x, smooth=True, **options) for x in (z, -z)]
    assert torch.allclose(smooth[0] + smooth[1], torch.ones_like(z))
    step = [quantile_activation(x, smooth=False, **options) for x in (z, -z)]
    assert torch.allclose(step[0] + step[1], torch.full_like(z, 1 + 1 / 257))


def test_a_step_rank_does_not_change_under_increasing_maps():
    z = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    rank = quantile_activation(z, grounded=False, smooth=False)
    for bent in (z**3, torch.exp(1.5 * z), 7 * z - 40):
        torch.testing.assert_close(
            quantile_activation(bent, grounded=False, smooth=False), rank, atol=1e-6, rtol=0
        )


def test_a_grounded_rank_changes_under_a_shift():
    z = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    rank = quantile_activation(z, smooth=False)
    assert torch.allclose(quantile_activation(8 * z, smooth=False), rank)
    assert (quantile_activation(z + 1, smooth=False) - rank).abs().max() > 0.1


def test_a_rank_limit_is_that_of_a_binomial_median():
    generator = torch.Generator().manual_seed(0)
    below = torch.binomial(torch.full((20_000,), 512.0), torch.tensor(0.5), generator=generator)
    measured = 1 - (below - 256).abs().mean().item() / 512
    assert example.rank_limit(512) == pytest.approx(measured, abs=1e-3)


def test_it_prints_a_narrow_table_and_writes_a_figure(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    small = tuple(f for f in example.FAMILIES if f.name in WANTED[:1])
    monkeypatch.setattr(example, "FAMILIES", small)
    monkeypatch.setattr(example, "ceiling", lambda draw, dim: 50.0)
    run = example.run
    monkeypatch.setattr(example, "run", lambda seeds, share: run(seeds, share, families=small))
    example.main(["--seeds=1", "--longer=0.02", f"--out={tmp_path / 'figure.svg'}"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.split("\n\nwrote")[0].splitlines())) <= 80
    assert (tmp_path / "figure.svg").stat().st_size > 10_000


def test_measuring_leaves_the_model_as_it_was():
    model = example.train(example.FAMILIES[0], "QAct", seed=0, steps=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example.measure(model, example.shifted, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.mode for m in model if isinstance(m, qact.QAct)] == ["running"] * 2
