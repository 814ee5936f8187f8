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


def test_lsuv_twice_is_lsuv_once():
    x = torch.randn(256, 64)
    model = qact.init_(network("swish", 64, 5), "lsuv", inputs=x)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    qact.init_(model, "lsuv", inputs=x)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with torch.no_grad():
        model[2].weight.normal_()  # no longer orthogonal: drawn anew
    drawn = model[2].weight.clone()
    qact.init_(model, "lsuv", inputs=x)
    gram = model[2].weight.detach() @ model[2].weight.detach().T
    assert not torch.equal(drawn, model[2].weight)
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(64), atol=1e-4, rtol=0)


def test_an_unstable_fixed_point_is_warned_of():
    # SiLU at variance 1 by scipy's quadrature: E silu(z)^2, and d ln E / d ln q, the slope.
    integrate = pytest.importorskip("scipy.integrate")

    def moment(q):
        def f(z):
            x = math.sqrt(q) * z
            return (x / (1 + math.exp(-x))) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        return integrate.quad(f, -30, 30, epsabs=1e-13)[0]

    slope = (moment(1 + 1e-4) - moment(1 - 1e-4)) / 2e-4 / moment(1)
    assert slope == pytest.approx(1.173, abs=1e-3)
    with pytest.warns(UserWarning, match=f"unstable: behind SiLU a deviation grows {slope:.3f}"):
        qact.init_(network("silu", 256, 20))
    for name in ("relu", "tanh"):
        qact.init_(network(name, 256, 20))  # their slopes are 1 and below: no warning
    qact.init_(network("silu", 256, 4))  # no drift worth the name in so few layers
    qact.init_(network("silu", 8, 1))  # narrow, but nothing grows


def test_the_error_by_chance_is_what_networks_have():
    # The mean square of f over the width, over many networks, against its predicted deviation.
    f, width = torch.nn.functional.silu, 100
    z = torch.randn(4000, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = f(z).square().mean(1)
    predicted = signal.sampling_error(f, width)
    assert float(found.std() / found.mean()) == pytest.approx(predicted, rel=0.05)


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
