"""Corruptions of CIFAR-10-C and MNIST-C, and augmentations: whole batches, seeded per image.

``register`` enters a corruption of one's own, ``entry`` and ``names`` look into the registry.
"""

from qact.corruptions.apply import corrupt, corrupt_mnist
from qact.corruptions.registry import CorruptionEntry, corruptions, entry, names, register

__all__ = [
    "CorruptionEntry",
    "corrupt",
    "corrupt_mnist",
    "corruptions",
    "entry",
    "names",
    "register",
]
