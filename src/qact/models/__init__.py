"""Networks for small images, each built with an activation factory."""

from qact.models.resnet import ResNet, resnet18, resnet34, resnet_small

__all__ = ["ResNet", "resnet18", "resnet34", "resnet_small"]
