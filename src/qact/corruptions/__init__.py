"""Corruptions of CIFAR-10-C and MNIST-C, and augmentations: whole batches, seeded per image."""

from qact.corruptions.registry import corrupt, corrupt_mnist, corruptions

__all__ = ["corrupt", "corrupt_mnist", "corruptions"]
