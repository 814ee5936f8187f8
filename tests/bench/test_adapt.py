import pytest
import torch
from torch import nn

import qact
from qact.bench.errors import RecipeError
from qact.bench.measure.adapt import predict
from qact.bench.recipe.adaptations import check_adaptation, describe, parse_adaptation
from qact.models import resnet_small


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = resnet_small(width_multiplier=0.5)
    network(torch.randn(64, 1, 8, 8))  # statistics to be frozen
    return network.eval()


@pytest.fixture
def images():
    return 2 * torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + 1


def test_frozen_predictions_depend_on_their_own_image_alone(model, images):
    order = torch.randperm(30)
    together = predict(model, images, "frozen", order)
    alone = torch.cat([predict(model, image[None], "frozen", torch.arange(1)) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, model(images), rtol=1e-4, atol=1e-5)


def test_batch_statistics_are_those_of_training_mode(model, images):
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    found = predict(model, images, "batch-10", order)
    reference = torch.empty_like(found)
    with torch.no_grad():
        for part in order.split(10):
            reference[part] = model.train()(images[part])
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)


def test_adaptation_leaves_no_trace(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    plain = model(images)
    for adaptation in ("batch-10", "mixed-10", "frozen"):
        predict(model, images, adaptation, torch.arange(30))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == [module.training for module in model.modules()]
    assert torch.equal(plain, model(images))


@pytest.mark.parametrize("adaptation", ["frozen", "batch-10", "mixed-10"])
def test_every_layer_keeps_its_own_flags(model, images, adaptation):
    model.train()
    first, *_ = model.children()
    first.eval().requires_grad_(False)
    training = [module.training for module in model.modules()]
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    assert len(set(training)) == len(set(gradients)) == 2
    predict(model, images, adaptation, torch.arange(30))
    assert training == [module.training for module in model.modules()]
    assert gradients == [parameter.requires_grad for parameter in model.parameters()]


def test_the_last_batch_is_filled_up_and_counts_once():
    sizes = []

    class Spy(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1)[:, :1]

    images = torch.arange(25.0).reshape(25, 1, 1, 1)
    logits = predict(Spy(), images, "batch-10", torch.randperm(25))
    assert sizes == [10, 10, 10]
    assert torch.equal(logits[:, 0], torch.arange(25.0))


def test_a_batch_larger_than_the_test_set_is_refused(model, images):
    with pytest.raises(RecipeError, match="batch-31 needs at least 31 test images, got 30"):
        predict(model, images, "batch-31", torch.arange(30))


@pytest.mark.parametrize(
    "name",
    ["", "batch", "batch-", "batch-0", "batch-1.5", "Batch-8", "eval", "tent:-8", "frozen-8"],
)
def test_unknown_adaptations_are_refused(name):
    with pytest.raises(RecipeError, match="'frozen', 'batch-N'") as told:
        check_adaptation(name)
    assert repr(name) in str(told.value)
    assert "alpha_bn, aqr" in str(told.value)


def test_options_of_methods_are_read_and_checked():
    found = parse_adaptation("tent:lr=1e-3,optimizer=sgd-16")
    assert (found.method, found.batch, found.kind) == ("tent", 16, "tent:lr=1e-3,optimizer=sgd")
    assert found.options == {"lr": 1e-3, "optimizer": "sgd"}
    check_adaptation(found.name)
    with pytest.raises(RecipeError, match=r"'tent' has no option 'rate'; it has .*lr"):
        check_adaptation("tent:rate=1-16")
    with pytest.raises(RecipeError, match="written as option=value"):
        parse_adaptation("tent:lr-16")


def test_captions_state_the_regime():
    assert "single samples" in describe("frozen")
    assert "200 i.i.d. images" in describe("batch-200")
    assert "mixed with the stored ones" in describe("mixed-8")
    assert "by rank" in describe("recalibrated-8")


def test_recalibrated_is_the_block_of_that_name(model, images):
    with pytest.raises(RuntimeError, match=r"qact\.record"):
        predict(model, images, "recalibrated-10", torch.arange(30))
    qact.record(model, [torch.randn(64, 1, 8, 8)])
    found = predict(model, images, "recalibrated-10", torch.arange(30))
    with torch.no_grad(), qact.recalibrated(model, "mixed"):
        reference = torch.cat([model(part) for part in images.split(10)])
    torch.testing.assert_close(found, reference)
    assert not torch.allclose(found, predict(model, images, "frozen", torch.arange(30)), atol=1e-3)
