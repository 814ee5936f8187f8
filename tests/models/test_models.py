"""Every network: its size as published, any shape it promises, and a step that learns."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qact import QAct
from qact.models import MLP, MODELS, VGG, DenseNet, LeNet, ViT, build, positions, vgg16
from qact.models.residual import Bottleneck

COUNTS = {
    "resnet_small": 19_954,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "vgg16": 14_728_266,
    "densenet40": 1_019_722,
    "vit_tiny": 2_693_578,
    "mlp": 1_708_810,
    "lenet": 62_458,
}
# The width that keeps a test fast.
NARROW = dict.fromkeys(MODELS, 0.125) | {"resnet_small": 0.5, "vit_tiny": 0.05, "lenet": 1.0}


def tiny(name, act="relu", **options):
    return build(name, act=act, width_multiplier=NARROW[name], **options)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts(name):
    with torch.device("meta"):
        assert parameters(build(name)) == COUNTS[name]


def test_counts_of_the_original_forms():
    with torch.device("meta"):
        assert parameters(LeNet(batch_norm=False)) == 61_706
        assert parameters(MLP(784, (300, 100), 10, batch_norm=False)) == 266_610
        # DeiT-Ti with patches of 4 on 32x32, as timm builds it.
        assert parameters(ViT(12, 192, 3, 3, 10)) == 5_362_762
        assert parameters(build("resnet18", num_classes=100)) == 11_220_132


def continuous(channels):
    return QAct(channels, grounded="continuous")


# Grounded by the signs, a rank jumps where a value crosses zero, by the more the fewer values there
# are: a network that ends in one position an image needs more of them for a loss that is smooth.
@pytest.mark.parametrize(("act", "images"), [("relu", 6), ("qact", 24), (continuous, 6)])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_against_the_gradient_lowers_the_loss(name, act, images):
    torch.manual_seed(0)
    network = tiny(name, act, in_channels=1, num_classes=3, image_size=16)
    x, y = torch.randn(images, 1, 16, 16), torch.arange(images) % 3
    first = cross_entropy(network(x), y)
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    state, lower = [p.detach().clone() for p in network.parameters()], []
    norm = sum(p.grad.square().sum() for p in network.parameters()).sqrt()
    with torch.no_grad():
        for rate in (0.1, 0.01, 1e-3, 1e-4):  # one is short enough for the curvature
            for p, old in zip(network.parameters(), state, strict=True):
                p.copy_(old - rate / norm * p.grad)
            lower.append(cross_entropy(network(x), y) < first)
    assert any(lower)


def gradient_norm(network):
    x, y = torch.randn(32, 3, 16, 16), torch.arange(32) % 10
    cross_entropy(network(x), y).backward()
    return float(sum(p.grad.square().sum() for p in network.parameters()).sqrt())


@pytest.mark.parametrize("act", ["relu", "qact"])
def test_bottlenecks_start_close_to_their_shortcuts(act):
    # With branches at full scale: 60 to 80 with ReLU, 400 to 460 with QAct (docs/shift.md).
    ends = []
    for full in (True, False):
        torch.manual_seed(1)
        network = tiny("resnet50", act, in_channels=3)
        for block in (m for m in network.modules() if full and isinstance(m, Bottleneck)):
            nn.init.ones_(block.bn3.weight)
        ends.append(gradient_norm(network))
    assert ends[1] <= 0.1 * ends[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [28, 32, 64])
def test_shapes(name, size):
    network = build(
        name, in_channels=3, num_classes=7, image_size=size, width_multiplier=NARROW[name]
    ).eval()
    x = torch.rand(2, 3, size, size)
    assert network(x).shape == (2, 7)
    features = network.embed(x)
    assert features.dim() == 2
    assert torch.equal(network.head(features), network(x))


@pytest.mark.parametrize("size", [1, 7, 33])
@pytest.mark.parametrize("name", ["vgg16", "densenet40", "resnet50"])
def test_convolutional_networks_take_any_size(name, size):
    network = build(name, width_multiplier=0.125).eval()
    assert network(torch.rand(2, 3, size, size + 1)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights_whatever_the_activation(name):
    states = []
    for act in ("relu", "silu"):
        torch.manual_seed(1)
        states.append(build(name, act=act, width_multiplier=NARROW[name]).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("name", MODELS)
def test_positions_are_module_names(name):
    places = positions(name)
    act = dict.fromkeys(places, "softsign")
    modules = dict(build(name, act=act, width_multiplier=NARROW[name]).named_modules())
    assert all(isinstance(modules[place], nn.Softsign) for place in places)
    assert sum(isinstance(m, nn.Softsign) for m in modules.values()) == len(places)


def test_attention_is_a_mean_over_tokens():
    """A transformer without positions does not see the order of its patches."""
    torch.manual_seed(0)
    net = ViT(2, 8, 2, 1, 3, image_size=8).eval()
    nn.init.zeros_(net.places)
    x = torch.rand(2, 1, 8, 8)
    swapped = torch.cat([x[..., 4:], x[..., :4]], -1)
    assert torch.allclose(net(x), net(swapped), atol=1e-5)


def test_dense_layers_keep_all_before_them():
    net = DenseNet(10, 4, 1, 3).eval()
    x = net.stem(torch.rand(1, 1, 8, 8))
    out = net.blocks[0](x)
    assert out.shape[1] == 16 + 2 * 4
    assert torch.equal(out[:, :16], x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("vgg19"), "unknown model 'vgg19'; did you mean 'vgg16'"),
        (
            lambda: build("mlp", placement="best"),
            "unknown placement 'best'; did you mean 'branches'",
        ),
        (lambda: build("lenet", image_size=15), "image_size must be at least 16, got 15"),
        (lambda: build("vit_tiny", image_size=30), "multiple of patch=4, got 30"),
        (lambda: ViT(1, 10, 3, 1, 10), "width must be a multiple of heads=3, got 10"),
        (lambda: DenseNet(12, 4, 1, 10), r"depth must be 3 n \+ 4 with n >= 1, got 12"),
        (lambda: MLP(10, (), 2), r"at least one layer .* got \(\)"),
        (lambda: VGG(((8,), ()), 1, 2), "channels of at least 1 each"),
        (lambda: vgg16(width_multiplier=0.0), "width_multiplier=0.0 must be a number above 0"),
        (lambda: vgg16(width_multiplier=1e-3), "leaves no channels of 64"),
        (lambda: build("mlp", num_classes=0), "num_classes must be at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
