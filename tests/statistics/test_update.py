"""`update_stats`, `reset_running_stats`, and what torch's `update_bn` does to our layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from qact import Context, NormedQAct, QAct, update_stats


def net(*parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), *parts, nn.Dropout(0.5), nn.Linear(5, 2))


def fresh_batches() -> list[torch.Tensor]:
    return [torch.randn(64, 3) * 2 + 1 for _ in range(5)]


def test_contexts_and_norms_become_the_mean_over_the_pass():
    model = net(nn.BatchNorm1d(5), QAct(5), NormedQAct(5, after=True))
    model(torch.randn(64, 3) - 30)
    batches = fresh_batches()
    assert update_stats(model, batches) is model
    assert all(part.training for part in model.modules())
    assert model[1].momentum == 0.1
    assert model[2].momentum == 0.1
    with torch.no_grad():
        seen = [model[0](b) for b in batches]
    torch.testing.assert_close(
        model[1].running_mean, torch.stack([z.mean(0) for z in seen]).mean(0)
    )
    torch.testing.assert_close(model[1].running_var, torch.stack([z.var(0) for z in seen]).mean(0))
    normed = [nn.functional.batch_norm(z, None, None, training=True) for z in seen]
    context = model[2].context
    assert int(context.batches) == 5
    torch.testing.assert_close(context.mean, torch.cat(normed).mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        context.std, torch.cat(normed).std(0, correction=0), atol=1e-3, rtol=0
    )
    assert int(model[3].quantile.context.batches) == int(model[3].norm_out.num_batches_tracked) == 5


def test_a_failure_leaves_everything_as_it_was():
    model = net(nn.BatchNorm1d(5), QAct(5))
    model(torch.randn(64, 3))
    before = copy.deepcopy(model.state_dict())
    for source, match in (([], "empty"), ([torch.randn(64, 3), torch.randn(4, 7)], "shape")):
        with pytest.raises((ValueError, RuntimeError), match=match):
            update_stats(model, source)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert model[1].momentum == model[2].momentum == 0.1
    with pytest.raises(ValueError, match="no layer"):
        update_stats(nn.Linear(3, 3), [torch.randn(4, 3)])


@pytest.mark.parametrize("engine", [None, "eager"])
@pytest.mark.parametrize("make", [NormedQAct, lambda c, **o: NormedQAct(c, after=True, **o)])
def test_update_bn_of_torch_reads_whole_blocks_anew(make, engine):
    """It knows BatchNorms alone; the context of a block goes with its norm."""
    model = net(make(5, engine=engine))
    other = copy.deepcopy(model)
    model(torch.randn(64, 3) - 30)
    batches = fresh_batches()
    update_bn(batches, model)
    update_stats(other, batches)
    block, same = model[1], other[1]
    assert int(block.quantile.context.batches) == 5
    for name, tensor in same.quantile.context.state_dict().items():
        torch.testing.assert_close(getattr(block.quantile.context, name), tensor)
    twin = copy.deepcopy(block)
    twin.norm_in.reset_running_stats()
    assert twin.quantile.context.is_empty
    assert not block.quantile.context.is_empty


def test_every_layer_forgets_by_the_verb_of_batch_norm():
    layers = [QAct(3), NormedQAct(3, after=True), QAct.paper(3)]
    for layer in layers:
        before = copy.deepcopy(layer.state_dict())
        layer(torch.randn(20, 3))
        layer.reset_running_stats()
        assert layer.state_dict().keys() == before.keys()
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name]), name
    context = Context(2).add(torch.randn(9, 2))
    context.reset_running_stats()
    assert context.is_empty


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_block_without_affine_has_no_parameters(after, training):
    plain = NormedQAct(3, affine=False, after=after)
    assert [*plain.parameters()] == []
    scaled = NormedQAct(3, after=after)
    z = torch.randn(100, 3)
    for layer in (plain, scaled):
        layer(z)
        layer.train(training)
    x, y = (z.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(plain(x), scaled(y))
    plain(x).square().sum().backward()
    scaled(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    with torch.no_grad():
        torch.testing.assert_close(plain(z), scaled(z))
    assert len([*QAct.paper(3).parameters()]) == 4
    assert len([*NormedQAct(3, affine=False, norm_affine=True).parameters()]) == 2
