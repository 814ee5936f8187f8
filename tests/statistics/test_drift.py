"""Drift of layers that store a context, and of those of which one was recorded."""

import pytest
import torch
from torch import nn

import qact
from qact.statistics.distance import kolmogorov


def network() -> nn.Module:
    """A recorded norm before a trained QAct."""
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4), qact.QAct(4))
    for _ in range(5):
        model(torch.randn(80, 5))
    return qact.record(model.eval(), torch.randn(300, 5))


def test_every_batch_passes_once_and_both_kinds_are_told():
    model = network()
    batches = [2 * torch.randn(60, 5) + 1 for _ in range(3)]
    sizes = []
    model[0].register_forward_hook(lambda _, args, output: sizes.append(len(output)))
    drift = qact.drift(model, iter(batches))
    assert sizes == [60, 60, 60]
    found = {layer.name: layer for layer in drift.layers}
    assert set(found) == {"1", "3"}
    assert found["1"].p is None  # a recorded context does not say what its samples are worth
    assert found["3"].p is not None
    every = torch.cat(batches)
    with torch.no_grad():
        norm = qact.Context(6, bins=128).add(model[:2](every))
        own = qact.Context(4).add(model[:3](every))
    for name, stored, present in (
        ("1", model[1].source_context, norm),
        ("3", model[3].context, own),
    ):
        torch.testing.assert_close(found[name].ks, kolmogorov(stored, present), rtol=0, atol=0.01)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="batches"):
        qact.drift(network(), [])


def test_a_model_is_left_as_it_was():
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    qact.drift(model, torch.randn(50, 5))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_batch_of_nothing_is_no_batch():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), qact.QAct(3))
    x = torch.randn(32, 4)
    net(x)
    net.eval()
    found, wanted = qact.drift(net, [x[:0], x, x[:0]]), qact.drift(net, [x])
    assert torch.equal(found.worst.ks, wanted.worst.ks)
    with pytest.raises(ValueError, match="batches hold nothing finite"):
        qact.drift(net, x[:0])
