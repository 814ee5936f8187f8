"""Networks for small images, each built with an activation factory."""

from qact.models.densenet import DenseNet, densenet40
from qact.models.lenet import LeNet, lenet
from qact.models.mlp import MLP, mlp
from qact.models.placement import Placement, branches, paper, sums
from qact.models.registry import MODELS, build, create, entry, names, positions, register
from qact.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet_small
from qact.models.vgg import VGG, vgg16
from qact.models.vit import ViT, vit_tiny

__all__ = [
    "MLP",
    "MODELS",
    "VGG",
    "DenseNet",
    "LeNet",
    "Placement",
    "ResNet",
    "ViT",
    "branches",
    "build",
    "create",
    "densenet40",
    "entry",
    "lenet",
    "mlp",
    "names",
    "paper",
    "positions",
    "register",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_small",
    "sums",
    "vgg16",
    "vit_tiny",
]
