from dataclasses import replace

import pytest
import torch
from torch import nn

from qact import losses
from qact.bench import Training, rival
from qact.bench.data import load_inputs
from qact.bench.errors import RecipeError
from qact.bench.train.losses import headed, objective
from qact.bench.train.network import train_cell
from qact.losses.registry import LOSSES
from qact.models import resnet_small

TRAINABLE = [name for name in LOSSES if losses.entry(name).of != "values"]


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("activation", ["relu", "qact.paper"])
def test_any_activation_trains_with_any_loss(name, activation):
    torch.manual_seed(0)
    model = headed(resnet_small(act=rival(activation).factory, width_multiplier=0.5), name)
    images, labels = torch.randn(40, 1, 16, 16), torch.arange(40) % 2
    loss = objective(name)(model, images, labels)
    loss.backward()
    assert torch.isfinite(loss)
    for part in (model.stem, model.head):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


def test_the_probe_sends_no_gradient_into_the_network(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))

    @losses.register("silent", paper="here")
    class Silent(nn.Module):
        def forward(self, embedding, labels):
            return 0 * embedding.sum()

    model = resnet_small(width_multiplier=0.5)
    objective("silent")(model, torch.randn(8, 1, 16, 16), torch.arange(8) % 2).backward()
    assert not any(p.grad.any() for p in model.stem.parameters())
    assert model.head.weight.grad.any()


def test_a_network_without_an_embedding_is_named():
    with pytest.raises(RecipeError, match=r"'watershed' needs .* Linear lacks"):
        objective("watershed")(nn.Linear(3, 2), torch.randn(4, 3), torch.arange(4) % 2)


@pytest.mark.parametrize("name", ["quantile_huber", "feasible"])
def test_a_loss_of_something_else_is_refused(name):
    with pytest.raises(RecipeError, match=f"'{name}' is not one of images and labels"):
        objective(name)


def test_a_head_learns_and_is_loaded_again(tiny, tmp_path):
    recipe = replace(tiny, training=replace(tiny.training, loss="cosface", epochs=2))
    inputs = load_inputs(recipe.data)
    one, two = (
        train_cell(recipe, rival("relu"), 0, inputs, tmp_path, lambda n: None).model
        for _ in range(2)  # the second is read from its file
    )
    assert isinstance(two.head, losses.CosFace)
    assert torch.equal(one(inputs.val[0][:4]), two(inputs.val[0][:4]))


def test_an_unknown_loss_is_named():
    with pytest.raises(RecipeError, match="unknown loss 'hinge'"):
        Training(loss="hinge")


@pytest.mark.parametrize("loss", ["watershed", "triplet_watershed"])
def test_random_seeds_of_the_loss_follow_the_recipe(tiny, tmp_path, loss):
    recipe = replace(tiny, training=replace(tiny.training, loss=loss, epochs=2))
    inputs, runs = load_inputs(recipe.data), []
    for name in ("a", "b"):
        torch.rand(7)  # the caller's generator must not matter
        runs.append(train_cell(recipe, rival("relu"), 0, inputs, tmp_path / name, lambda n: None))
    one, two = (run.model.state_dict() for run in runs)
    assert all(torch.equal(one[key], two[key]) for key in one)
