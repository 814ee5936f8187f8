"""What `diagnose` says, of weights that are known, and contexts of scores that drift."""

from __future__ import annotations

import math

import pytest
import torch

import qact
from qact.attention import Attention, Scores, diagnose, dispersion_bound, form
from qact.models import ViT


def still(layer: Attention, q: float = 0.0) -> Attention:
    """A layer whose scores are ``q`` times the first feature of each key."""
    E = layer.embed_dim
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.bias.zero_()
        for h in range(layer.num_heads):
            d = h * E // layer.num_heads
            layer.qkv.bias[d] = q
            layer.qkv.weight[E + d, 0] = 1.0
    return layer


def test_uniform_and_sunken_heads():
    x = torch.zeros(2, 50, 8)
    x[:, 0, 0] = 1.0
    flat = diagnose(still(Attention(8, 2)), x).layers[0]
    torch.testing.assert_close(flat.entropy, torch.ones(2))
    torch.testing.assert_close(flat.sink, torch.full((2,), 0.02))
    assert flat.rank.tolist() == [1, 1]
    assert flat.largest.tolist() == [0, 0]
    torch.testing.assert_close(flat.bound, torch.full((2,), 0.02))
    found = diagnose(still(Attention(8, 2), 200.0), x)
    sunk = found.layers[0]
    assert (sunk.entropy < 1e-3).all()
    torch.testing.assert_close(sunk.sink, torch.ones(2))
    assert sunk.largest.tolist() == [100, 100]  # 200 / sqrt 4
    assert found.sink_share() == 1
    assert diagnose(still(Attention(8, 2)), x).sink_share() == 0
    assert "sink" in str(found)
    assert "<table" in found._repr_html_()


def test_the_rank_of_causal_weights_is_full():
    found = diagnose(Attention(8, 2, "sigmoid", causal=True), torch.randn(2, 10, 8)).layers[0]
    assert found.rank.tolist() == [10, 10]


def test_a_bound_holds():
    z = torch.randn(100, 30)
    assert (torch.softmax(z, -1).amax(-1) <= dispersion_bound(z) + 1e-6).all()
    assert dispersion_bound(torch.tensor([0.0, 1.0, -torch.inf])).item() == 1
    long = dispersion_bound(torch.tensor([0.0, 1.0, *[0.5] * 998]))
    assert long.item() == pytest.approx(math.e / 1000)


def test_nothing_to_describe():
    with pytest.raises(ValueError, match="has no attention of this package"):
        diagnose(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    layer = Attention(8, 2)
    diagnose(layer, torch.randn(1, 4, 8))
    assert layer.form.fused  # nobody listens any more


def test_contexts_of_scores_drift_with_them():
    torch.manual_seed(0)
    model = ViT(2, 16, 2, 1, 4, image_size=8, patch=2, normaliser="entmax15").eval()
    x = torch.randn(64, 1, 8, 8)
    qact.record(model, x, where=Scores)
    names = [n for n, m in model.named_modules() if isinstance(m, Scores)]
    assert names == ["blocks.0.attention.form.scores", "blocks.1.attention.form.scores"]
    near = qact.drift(model, torch.randn(64, 1, 8, 8))
    far = qact.drift(model, 5 * torch.randn(64, 1, 8, 8) + 2)
    assert [layer.name for layer in near.layers] == names
    assert near.layers[0].ks.shape == (2,)
    assert near.worst.ks.mean() < 0.05 < far.worst.ks.mean()


def test_softmax_scores_are_heard_too():
    layer = Attention(8, 2)
    assert layer.form.fused
    qact.record(layer, torch.randn(4, 5, 8), where=Scores)
    assert layer.form.fused
    assert int(layer.form.scores.source_context.count[0]) == 4 * 25
    drift = qact.drift(layer, 3 * torch.randn(4, 5, 8))
    assert drift.layers[0].w1.shape == (2,)


def test_a_form_that_makes_no_scores_is_not_described():
    with pytest.raises(ValueError, match="has no attention of this package with a map"):
        diagnose(form("mala", 2, 4), torch.zeros(1, 2, 4))


def test_drift_of_a_network_with_quantile_layers_and_scores():
    net = ViT(1, 8, 2, 3, 4, act="qact", image_size=8)
    images = torch.randn(64, 3, 8, 8)
    net(images)
    qact.record(net.eval(), [images], where=Scores)
    near, far = qact.drift(net, [images]), qact.drift(net, [4 * images])
    assert [layer.name for layer in near.layers] == [layer.name for layer in far.layers]
    assert {"scores", "act"} <= {layer.name.split(".")[-1] for layer in near.layers}
    # The same images again are near in scores; the layer of QAct follows its batches at a rate.
    assert all(layer.ks.max() < 0.1 for layer in near.layers if "scores" in layer.name)
    assert all(a.ks.mean() > b.ks.mean() for a, b in zip(far.layers, near.layers, strict=True))
