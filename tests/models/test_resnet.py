import pytest
import torch
from torch import nn

from qact.models import ResNet, resnet18, resnet34, resnet_small


@pytest.mark.parametrize(
    ("make", "count"), [(resnet18, 11_173_962), (resnet34, 21_282_122), (resnet_small, 19_810)]
)
def test_parameter_counts_are_those_of_the_literature(make, count):
    assert sum(p.numel() for p in make().parameters()) == count


@pytest.mark.parametrize("size", [1, 7, 8, 28, 32])
def test_any_image_size(size):
    network = resnet_small(in_channels=3, num_classes=5).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert network.embed(torch.zeros(2, 3, size, size)).shape == (2, 32)


def test_the_factory_is_asked_with_the_channels_at_every_place():
    seen = []

    def act(channels):
        seen.append(channels)
        return nn.PReLU(channels)

    network = resnet_small(act=act)
    assert seen == [8, 8, 8, 16, 16, 32, 32]
    network(torch.zeros(2, 1, 8, 8)).sum().backward()  # PReLU raises on a wrong channel count


def test_batchnorm_stands_before_each_activation():
    network, order = resnet_small().eval(), []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(lambda m, *_: order.append(type(m).__name__))
    network(torch.zeros(1, 1, 8, 8))
    before = [order[i - 1] for i, name in enumerate(order) if name == "ReLU"]
    assert before == ["BatchNorm2d"] * 7


def test_stages_halve_the_image_and_double_the_width():
    network, x = ResNet((1, 2, 1), 4, 1, 10), torch.zeros(2, 1, 16, 16)
    x = network.stem(x)
    shapes = []
    for stage in network.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]


def test_the_stem_can_halve_the_image():
    assert ResNet((1,), 4, 1, 10, stem_stride=2).stem(torch.zeros(2, 1, 32, 32)).shape[2] == 16
    with pytest.raises(ValueError, match="stem_stride must be at least 1, got 0"):
        ResNet((1,), 4, 1, 10, stem_stride=0)


def test_width_multiplier_scales_every_convolution():
    assert resnet18(width_multiplier=0.25).stem[0].out_channels == 16
    with pytest.raises(ValueError, match=r"width_multiplier 0\.001 leaves no channels of 64"):
        resnet18(width_multiplier=0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 8, 1, 10), r"at least one stage .* got \(\)"),
        (((1, 0), 8, 1, 10), r"got \(1, 0\)"),
        (((1,), 0, 1, 10), "width must be at least 1, got 0"),
        (((1,), 8, 1, 0), "num_classes must be at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(*arguments)


def test_same_seed_same_weights_whatever_the_activation():
    torch.manual_seed(3)
    one = resnet_small(act=lambda c: nn.ReLU()).state_dict()
    torch.manual_seed(3)
    two = resnet_small(act=lambda c: nn.Hardswish()).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
