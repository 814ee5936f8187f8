"""Every option of a training recipe: it runs, resumes to the same bits, and does what it says."""

from dataclasses import replace

import pytest
import torch

from qact.bench.data import load_inputs
from qact.bench.recipe.rivals import rival
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
