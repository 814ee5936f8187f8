import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from qact.bench import Model, Rival, Training
from qact.bench.data import load_inputs, permutation
from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.recipe.rivals import rival
from qact.bench.train.network import build, train_cell


def train(recipe, folder, seed=0, activation=None, advance=lambda images: None):
    entry = activation or rival("relu")
    return train_cell(recipe, entry, seed, load_inputs(recipe.data), folder, advance)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stop_after(images):
    """Return an ``advance`` that raises once so many images were passed."""
    passed = 0

    def advance(count):
        nonlocal passed
        passed += count
        if passed >= images:
            raise KeyboardInterrupt

    return advance


def test_same_seed_same_bits_other_seed_other_weights(tiny, tmp_path):
    one = train(tiny, tmp_path / "a").model.state_dict()
    two = train(tiny, tmp_path / "b").model.state_dict()
    other = train(tiny, tmp_path / "c", seed=1).model.state_dict()
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("images", [100, 1000, 1500, 2900])
def test_stopped_and_resumed_equals_uninterrupted(tiny, tmp_path, images, optimizer):
    # Dropout: the random numbers inside an epoch have to be the same after a resumption.
    noisy = Rival("noisy", lambda channels: nn.Sequential(nn.ReLU(), nn.Dropout(0.1)), "none")
    recipe = replace(tiny, training=replace(tiny.training, optimizer=optimizer, lr=0.01))
    whole = train(recipe, tmp_path / "whole", activation=noisy)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", activation=noisy, advance=stop_after(images))
    torch.rand(5)  # the state of the global generator must not matter
    resumed = train(recipe, tmp_path / "cut", activation=noisy)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    assert [e["loss"] for e in whole.history] == [e["loss"] for e in resumed.history]


def test_a_finished_cell_is_loaded_not_trained(tiny, tmp_path):
    first = train(tiny, tmp_path)
    written = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    told = []
    again = train(tiny, tmp_path, advance=told.append)
    assert told == []  # nothing was trained
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == written
    assert same(first.model.state_dict(), again.model.state_dict())
    assert not again.model.training
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_callers_random_numbers_are_untouched(tiny, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_it_learns(tiny, tmp_path):
    history = train(tiny, tmp_path).history
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["val_accuracy"] > 0.5


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.safetensors"])
def test_damaged_weights_are_named_and_kept(tiny, tmp_path, name):
    if name.startswith("weights"):
        train(tiny, tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(tiny, tmp_path, advance=stop_after(1500))
    path = tmp_path / name
    broken = path.read_bytes()[:-3]
    path.write_bytes(broken)
    with pytest.raises(DamagedFileError, match=re.escape(name)):
        train(tiny, tmp_path)
    assert path.read_bytes() == broken


def test_weights_of_another_recipe_are_refused(tiny, tmp_path):
    train(tiny, tmp_path)
    other = replace(tiny, training=replace(tiny.training, lr=0.5))
    with pytest.raises(
        RecipeError, match=r"trained otherwise \(training\.lr: 0\.01 there, 0\.5 here\)"
    ):
        train(other, tmp_path)


def test_a_diverging_network_says_so(tiny, tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            return x * float("nan")

    with pytest.raises(FloatingPointError, match="loss became nan"):
        train(tiny, tmp_path, activation=Rival("broken", lambda channels: Broken(), "none"))


def test_impossible_sizes_are_named(tiny, tmp_path):
    with pytest.raises(RecipeError, match="batch 5000 is larger than 1000 training images"):
        train(replace(tiny, training=Training(batch=5000)), tmp_path)
    with pytest.raises(RecipeError, match=r"model 'lenet': image_size must be at least 16, got 8"):
        train(replace(tiny, model=replace(tiny.model, name="lenet")), tmp_path / "b")


def test_the_placement_of_the_paper_is_another_network(tiny, tmp_path):
    inputs = load_inputs(tiny.data)
    usual, papers = (
        build(replace(tiny, model=Model("resnet_small", 0.5, place)), rival("qact"), 0, inputs)
        for place in ("everywhere", "paper")
    )
    assert [sum(type(m).__name__ == "QAct" for m in n.modules()) for n in (usual, papers)] == [7, 5]
    assert tiny.trained()["model"] == {"name": "resnet_small", "width_multiplier": 0.5}
    assert Model(placement="paper").identity()["placement"] == "paper"


def test_the_normaliser_is_that_of_the_network(tiny, tmp_path):
    inputs = load_inputs(tiny.data)
    of = partial(replace, tiny)
    vit = build(of(model=Model("vit_tiny", 0.05, normaliser="rank")), rival("gelu"), 0, inputs)
    assert vit.blocks[0].attention.form.map.name == "rank"
    with pytest.raises(RecipeError, match=r"model 'resnet_small': .*is for attention"):
        build(of(model=Model("resnet_small", normaliser="rank")), rival("gelu"), 0, inputs)
    assert "normaliser" not in Model("vit_tiny").identity()
    assert Model("vit_tiny", normaliser="rank").identity()["normaliser"] == "rank"


def test_permutations_differ_by_seed_and_epoch():
    seen = {tuple(permutation(20, seed, epoch).tolist()) for seed in range(9) for epoch in range(9)}
    assert len(seen) == 81
