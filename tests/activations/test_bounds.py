"""Bounds of whole networks, certificates, and the start that keeps widths."""

from __future__ import annotations

import operator
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact
from qact.activations.bounds import Bounds, behind_sums, certify
from qact.activations.intervals import Box, interval
from qact.models import resnet_small


def holds(net, box, points=40, slack=1e-4):
    """Random points of a box, and random corners, are within the bounds of the output."""
    bounds = Bounds(net)(*box)
    for k in range(points):
        share = torch.rand_like(box.low)
        y = net(torch.lerp(*box, share.round() if k % 2 else share)).detach()
        assert (y >= bounds.low - slack).all()
        assert (y <= bounds.high + slack).all()
    return bounds


@pytest.mark.parametrize("act", ["relu", "gelu", "qact", "qact.paper"])
def test_residual_networks(act):
    torch.manual_seed(0)
    net = resnet_small(act=act, width_multiplier=0.25)
    x = torch.rand(40, 1, 16, 16)
    net.train()(x)
    net.eval()
    holds(net, Box.about(x[:4], 0.01), 12)
    point = Bounds(net)(x[:4], x[:4])
    torch.testing.assert_close(point.low, net(x[:4]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(point.high, point.low, rtol=1e-3, atol=1e-4)


class Everything(nn.Module):
    """Sums, differences, products, joins, functions and methods of tensors."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.gate, self.token = nn.Linear(4, 4), nn.LayerNorm(4)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = F.gelu(self.norm(self.conv(x)))
        x = F.leaky_relu(x, 0.2) - 0.3 * x
        x = F.pad(F.max_pool2d(x, 2), (1, 1, 0, 0)) + 1
        pooled = x.mean((2, 3))
        gate = torch.sigmoid(self.gate(pooled))
        x = (x * gate[:, :, None, None]).flatten(2).transpose(1, 2)
        x = 2 - self.token(x).sum(1)
        x = torch.cat([x, pooled, operator.mul(-1.5, pooled)], 1)
        return self.head(F.silu(x.view(x.shape[0], x.size(1))))


def test_operations():
    torch.manual_seed(0)
    net = Everything().eval()
    for norm in (net.norm, net.token):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(5, 2, 6, 6)
    for radius in (0.0, 0.02, 0.5):
        bounds = holds(net, Box.about(x, radius))
    assert bounds.low.shape == (5, 3)


@pytest.mark.parametrize("shape", [(7, 12), (3, 12, 2)])
def test_norms_of_a_sample(shape):
    torch.manual_seed(0)
    norm = nn.LayerNorm(shape[1:]) if len(shape) == 2 else nn.GroupNorm(3, 12)
    x = torch.randn(shape)
    for radius in (0.01, 3.0):
        box = interval(norm, Box.about(x, radius * torch.rand(shape)))
        wide = norm(x + radius * 0)
        assert ((box.low <= wide) & (wide <= box.high)).all()
        holds(nn.Sequential(norm), Box.about(x, radius))


def test_a_linear_layer_by_hand():
    net = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0, -1.0]]))
    box = Bounds(net)(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    assert (box.low.item(), box.high.item()) == (-3, 2)


def test_refusals():
    x = torch.zeros(1, 2)
    with pytest.raises(NotImplementedError, match="at '0': no interval bounds of Softmax"):
        Bounds(nn.Sequential(nn.Softmax(1)))(x, x + 1)
    with pytest.raises(ValueError, match="low <= high"):
        Bounds(nn.Sequential(nn.ReLU()))(x + 1, x)

    class Branching(nn.Module):
        def forward(self, z):
            return z if z.sum() > 0 else -z

    with pytest.raises(NotImplementedError, match="Branching cannot be traced"):
        Bounds(Branching())

    class Strange(nn.Module):
        def forward(self, z):
            return torch.cumsum(z, 1)

    with pytest.raises(NotImplementedError, match="no interval bounds of cumsum"):
        Bounds(Strange())(x, x + 1)


def test_layers_as_functions():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)
            self.shift = nn.Parameter(torch.ones(1, 3))

        def forward(self, x):
            x = F.conv2d(x, self.conv.weight, self.conv.bias, 1, 1)
            norm = self.norm
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, training=False)
            x = F.relu(x).mean((2, 3)) + self.shift.expand(x.shape[0], -1)
            return F.linear(x, self.head.weight, bias=self.head.bias)

    torch.manual_seed(0)
    net = Functions().eval()
    nn.init.normal_(net.norm.weight)
    holds(net, Box.about(torch.randn(3, 2, 5, 5), 0.3))


def test_what_works_in_place():
    class Block(nn.Module):
        """A residual sum whose branch begins with an activation in place."""

        def __init__(self, copied):
            super().__init__()
            self.act, self.lin, self.copied = nn.ReLU(inplace=True), nn.Linear(4, 4), copied

        def forward(self, x):
            y = self.lin(x)
            y = self.act(y.clone() if self.copied else y) + 2 * y
            return torch.cat([F.dropout(y, 0.5, training=self.training), torch.zeros(5, 1)], 1)

    torch.manual_seed(0)
    with pytest.raises(NotImplementedError, match="works in place on what is read afterwards"):
        Bounds(Block(False))
    x, net = torch.randn(5, 4), Block(True).train()
    bounds = Bounds(net)
    net.eval()
    low, high = x - 0.2, x + 0.2
    box = bounds(low, high)
    assert low.equal(x - 0.2)
    y = net(x)
    assert ((box.low <= y) & (y <= box.high)).all()
    holds(net, Box(low, high))
    line = torch.tensor([-1.0, 1.0])
    assert interval(nn.ReLU(inplace=True), Box(line, line)).low.tolist() == [0, 1]
    assert line.tolist() == [-1, 1]


def test_modes_and_names():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU()).train()
    box = Bounds(net)(torch.zeros(2, 3), torch.ones(2, 3))
    assert net[1].training
    net.eval()
    torch.testing.assert_close(box, Bounds(net)(torch.zeros(2, 3), torch.ones(2, 3)))
    bounds = Bounds(net)
    bounds(torch.zeros(2, 3), torch.ones(2, 3))
    assert list(bounds.seen) == ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.tensor(images).float() / 16, torch.tensor(labels)


def trained(act, images, labels, eps, steps=70):
    """A network of one hidden layer, trained on its bounds where ``eps`` is not zero."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 48), qact.activation(act, 48), nn.Linear(48, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for step in range(steps):
        index = torch.randint(len(images), (128,))
        x, y = images[index], labels[index]
        loss = F.cross_entropy(net.train()(x), y)
        if eps and step > 20:
            box = Bounds(net)(x - eps, x + eps)
            worst = torch.where(F.one_hot(y, 10).bool(), box.low, box.high)
            loss = loss + F.cross_entropy(worst, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.mark.parametrize("act", ["relu", "qact"])
def test_certified_training(act, digits):
    (images, labels), eps = digits, 0.05
    plain, robust = (trained(act, images[:1000], labels[:1000], e) for e in (0.0, eps))
    found = {
        name: certify(net, images[1000:], labels[1000:], eps, within=(0, 1))
        for name, net in (("plain", plain), ("robust", robust))
    }
    assert found["robust"].certified > found["plain"].certified + 0.1
    assert found["robust"].certified <= found["robust"].accuracy
    # What is proved holds against an attack along the gradient.
    x, y = images[1000:], labels[1000:]
    proved = found["robust"].gain < 0
    moved = x.clone()
    for _ in range(3):
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(robust(moved), y), moved)
        moved = (x + (moved.detach() + 0.03 * slope.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    assert (robust(moved).argmax(1) == y)[proved].all()
    shares = [certify(robust, x, y, e).certified for e in (0.0, 0.02, 0.05, 0.1)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == found["robust"].accuracy
    assert "certified=" in repr(found["plain"])


def test_the_last_layer_is_taken_on_differences(digits):
    images, labels = digits[0][:50], digits[1][:50]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    low, high = images - 0.1, images + 0.1
    gain = Bounds(net).gains(low, high, labels)
    box = Bounds(net)(low, high)
    plain = (box.high - box.low.gather(1, labels[:, None])).scatter(1, labels[:, None], -9e9)
    assert (gain < plain.amax(1)).all()
    hidden = Bounds(net[:2])(low, high)
    for n in (0, 7):  # by hand: each difference is a linear function of the box
        apart = net[2].weight - net[2].weight[labels[n]]
        best = (apart.clamp_min(0) @ hidden.high[n]) + (apart.clamp_max(0) @ hidden.low[n])
        best = best + net[2].bias - net[2].bias[labels[n]]
        best[labels[n]] = -torch.inf
        assert gain[n].item() == pytest.approx(best.max().item(), abs=1e-4)


def test_a_start_that_keeps_widths():
    torch.manual_seed(0)
    width = 512
    layers = [part for _ in range(8) for part in (nn.Linear(width, width), nn.ReLU())]
    net = qact.init_(nn.Sequential(*layers), "interval")
    bounds = Bounds(net)
    with torch.no_grad():
        bounds(*Box.about(torch.randn(4, width), 0.1))
    widths = [float(bounds.seen[str(k)].radius.mean()) for k in range(0, 16, 2)]
    ratios = [b / a for a, b in pairwise(widths)]
    assert all(0.9 < ratio < 1.1 for ratio in ratios)
    he = Bounds(qact.init_(nn.Sequential(*layers)))
    with torch.no_grad():
        he(*Box.about(torch.randn(4, width), 0.1))
    assert float(he.seen["14"].radius.mean()) > 1e6 * widths[-1]


def test_behind_a_sum_it_is_half():
    torch.manual_seed(0)
    net = resnet_small(act="relu", width_multiplier=2.0)
    halved = behind_sums(net)
    qact.init_(net, "interval")
    modules = dict(net.named_modules())
    assert "stages.1.0.conv1" in halved
    assert "stages.1.0.conv2" not in halved
    for name, share in (("stages.1.0.conv1", 0.5), ("stages.1.0.conv2", 1.0)):
        weight = modules[name].weight
        scale = weight[0].numel() * float(weight.detach().std()) / (2 * torch.pi) ** 0.5
        assert scale == pytest.approx(share, rel=0.1)
