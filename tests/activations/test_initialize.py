"""`init_`: the variance of the signal stays, layer after layer, for any activation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import qact
from qact.activations import signal

WIDTH, DEPTH = 512, 4


def network(name: str | None, width: int = WIDTH, depth: int = DEPTH, **options) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), qact.activation(name, width, **options)]
    return nn.Sequential(*layers, nn.Linear(width, width))


@torch.no_grad()
def spreads(model: nn.Module, x: torch.Tensor) -> list[float]:
    found = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            found.append(float(x.square().mean().sqrt()))
    return found


@pytest.mark.parametrize(
    "name",
    ["relu", "tanh", "gelu", "golu", "mish", "xatlu", "crrelu", "pau", "prelu", "tmaf", "qact"],
)
def test_the_variance_stays(name):
    model = qact.init_(network(name), sigma=1.0)
    found = spreads(model.train(), torch.randn(256, WIDTH))
    assert found[0] == pytest.approx(1, abs=0.1)
    assert found[-1] == pytest.approx(1, abs=0.2)


def test_torchs_own_initialisation_would_let_it_vanish():
    assert spreads(network("golu"), torch.randn(256, WIDTH))[-1] < 0.2


@pytest.mark.parametrize("name", ["gelu", "golu", "tanh"])
def test_the_edge_of_chaos(name):
    model = qact.init_(network(name), "edge", sigma=0.9)
    sigma_w, sigma_b = signal.edge_of_chaos(qact.activation(name).double(), 0.81)
    layer = model[4]
    assert float(layer.weight.detach().std()) * math.sqrt(WIDTH) == pytest.approx(sigma_w, rel=0.02)
    assert float(layer.bias.detach().std()) == pytest.approx(sigma_b, rel=0.2)
    found = spreads(model, torch.randn(256, WIDTH))
    assert found[:-1] == pytest.approx([0.9] * DEPTH, rel=0.2)


@pytest.mark.parametrize("name", ["relu", "swish", "qact"])
def test_lsuv_makes_every_output_of_unit_variance(name):
    x = 3 * torch.randn(128, 64) + 1
    model = network(name, 64, 5)
    qact.init_(model, "lsuv", inputs=x)
    seen = []
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda m, a, y: seen.append(float(y.detach().std())))
    model(x)
    assert seen == pytest.approx([1.0] * 6, abs=0.05)


def test_lsuv_leaves_statistics_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    before = model[1].running_mean.clone()
    qact.init_(model, "lsuv", inputs=torch.randn(32, 8) + 5)
    assert torch.equal(model[1].running_mean, before)


def test_the_first_layer_reads_data_and_biases_start_at_zero():
    torch.manual_seed(0)
    model = qact.init_(network("golu", 400, 1))
    assert float(model[0].weight.detach().std()) * 20 == pytest.approx(1, rel=0.02)
    gain = signal.gain(qact.activation("golu").double())
    assert float(model[2].weight.detach().std()) * 20 == pytest.approx(gain, rel=0.02)
    assert not model[0].bias.any()


def test_convolutions_and_a_named_activation():
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=4), nn.ConvTranspose2d(64, 8, 2)
    )
    qact.init_(model, activation="tanh")
    gain = signal.gain(torch.tanh)
    assert float(model[0].weight.detach().std()) * math.sqrt(27) == pytest.approx(1, rel=0.1)
    assert float(model[2].weight.detach().std()) * math.sqrt(16 * 9) == pytest.approx(
        gain, rel=0.05
    )


def test_what_cannot_be_done_is_said():
    model = network("relu", 8, 1)
    with pytest.raises(ValueError, match="scheme='best'"):
        qact.init_(model, "best")
    with pytest.raises(ValueError, match="give inputs"):
        qact.init_(model, "lsuv")
    with pytest.raises(ValueError, match="does not vary"):
        qact.init_(model, "lsuv", inputs=torch.zeros(4, 8))
    with pytest.raises(ValueError, match="QAct reads its batch"):
        qact.init_(network("qact", 8, 1), "edge")
    with pytest.raises(ValueError, match="sigma=0"):
        qact.init_(model, sigma=0)
