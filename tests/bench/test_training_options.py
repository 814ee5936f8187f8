"""Every option of a training recipe: it runs, resumes to the same bits, and does what it says."""

from dataclasses import replace

import pytest
import torch

from qact.bench import Summary, run
from qact.bench.data import load_inputs
from qact.bench.errors import RecipeError
from qact.bench.recipe.rivals import rival
from qact.bench.report.html import render
from qact.bench.train.checkpoint import epochs_done
from qact.bench.train.network import train_cell


def train(recipe, folder, **options):
    inputs = load_inputs(recipe.data)
    advance = options.pop("advance", lambda images: None)
    return train_cell(recipe, rival("relu"), 0, inputs, folder, advance, **options)


def same(one, two):
    one, two = one.model.state_dict(), two.model.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stop_after(epochs):
    """Return a ``tell`` that raises after so many epochs, before they are written."""

    def tell(epoch, entry):
        if epoch > epochs:
            raise KeyboardInterrupt

    return tell


OPTIONS = [
    {"ema": 0.9},
    {"schedule": "plateau", "select": "best"},
    {"ema": 0.9, "select": "best"},
    {"optimizer": "sgd", "momentum": 0.8, "schedule": "cosine", "warmup": 1},
    {"augmentation": "crop_flip_augmix"},
    {"precision": "bfloat16"},
    {"optimizer": "sgd", "schedule": "triangle", "warmup": 0.4, "augmentation": "crop_flip"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o)))
def test_stopped_and_resumed_equals_uninterrupted(tiny, tmp_path, options):
    recipe = replace(tiny, training=replace(tiny.training, **options))
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", tell=stop_after(1))
    assert epochs_done(tmp_path / "cut") == 1
    resumed = train(recipe, tmp_path / "cut")
    assert same(whole, resumed)
    assert epochs_done(tmp_path / "cut") is None
    assert same(whole, train(recipe, tmp_path / "cut"))  # loaded
    plain = train(tiny, tmp_path / "plain")
    assert not same(whole, plain)  # the option made a difference


def test_the_best_epoch_is_the_one_with_the_best_validation(tiny, tmp_path):
    # A rate that grows wild after the first epochs would make the last ones worse.
    training = replace(tiny.training, schedule="constant", lr=0.05, select="best")
    trained = train(replace(tiny, training=training), tmp_path)
    scores = [entry["val_accuracy"] for entry in trained.history]
    inputs = load_inputs(tiny.data)
    with torch.inference_mode():
        found = (trained.model(inputs.val[0]).argmax(1) == inputs.val[1]).float().mean().item()
    assert found == pytest.approx(max(scores), abs=4e-3)


def test_patience_ends_a_training_that_stalls(tiny, tmp_path):
    training = replace(tiny.training, lr=1e-9, schedule="constant", epochs=9, patience=2)
    trained = train(replace(tiny, training=training), tmp_path)
    assert 3 <= len(trained.history) < 9


def test_the_test_images_play_no_part(tiny, tmp_path):
    inputs = load_inputs(tiny.data)
    other = replace(inputs, test_images=torch.rand_like(inputs.test_images), _corrupted={})
    recipe = replace(tiny, training=replace(tiny.training, select="best"))
    one = train_cell(recipe, rival("relu"), 0, inputs, tmp_path / "a", lambda images: None)
    two = train_cell(recipe, rival("relu"), 0, other, tmp_path / "b", lambda images: None)
    assert same(one, two)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tiny, tmp_path, monkeypatch):
    import os

    from qact.bench.errors import StorageError

    whole = train(tiny, tmp_path / "whole")
    real, written = os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"checkpoint\.safetensors cannot be written: No space"):
        train(tiny, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["checkpoint.safetensors"]
    assert epochs_done(tmp_path / "full") == 1
    monkeypatch.undo()
    assert same(whole, train(tiny, tmp_path / "full"))


@pytest.mark.slow
def test_compiled_training_stores_the_plain_network(tiny, tmp_path):
    recipe = replace(tiny, training=replace(tiny.training, compile=True))
    compiled, plain = train(recipe, tmp_path / "a"), train(tiny, tmp_path / "b")
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    assert compiled.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=0.05)
    assert same(compiled, train(recipe, tmp_path / "a"))


def test_validation_images_are_trained_on_if_asked(tiny, tmp_path):
    apart = load_inputs(tiny.data)
    recipe = replace(tiny, data=replace(tiny.data, with_validation=True))
    whole = load_inputs(recipe.data)
    assert whole.sizes() == {
        "train": apart.sizes()["train"] + apart.sizes()["val"],
        "val": 0,
        "test": apart.sizes()["test"],
    }
    results = run(recipe, tmp_path / "bench", jobs=1)
    history = results.cells["relu/0"]["history"]
    assert len(history) == recipe.training.epochs
    assert all(set(epoch) == {"loss", "seconds"} for epoch in history)
    again = run(recipe, tmp_path / "bench", jobs=1)
    assert again.rows == results.rows
    assert "validation accuracy" in render(Summary(results))


@pytest.mark.parametrize(
    "option", [{"select": "best"}, {"schedule": "plateau"}, {"patience": 3}], ids=str
)
def test_what_watches_validation_accuracy_needs_validation_images(tiny, tmp_path, option):
    training = replace(tiny.training, **option)
    told = f"{next(iter(option))}=.* needs validation images"
    with pytest.raises(RecipeError, match=told):
        replace(tiny, training=training, data=replace(tiny.data, with_validation=True))
    recipe = replace(tiny, training=training)
    none = replace(load_inputs(tiny.data), val=(torch.zeros(0, 1, 8, 8), torch.zeros(0).long()))
    with pytest.raises(RecipeError, match=told):
        train_cell(recipe, rival("relu"), 0, none, tmp_path, lambda images: None)


def test_all_images_make_another_network(tiny, tmp_path):
    run(tiny, tmp_path)
    other = replace(tiny, data=replace(tiny.data, with_validation=True))
    with pytest.raises(RecipeError, match=r"data.with_validation: None there, True here"):
        run(other, tmp_path)
