"""Distribution shift: data sets, augmentation, streams, corruptions of CIFAR-10-C and MNIST-C."""

from qact.corruptions.registry import corrupt, corrupt_mnist, corruptions
from qact.datasets import streams
from qact.datasets.data import load
from qact.datasets.download import download
from qact.datasets.local import from_folder, from_npz
from qact.datasets.shifted import TEST_SETS, ShiftedSet, load_shifted
from qact.datasets.splits import Splits, from_arrays
from qact.datasets.writer import write_corrupted

__all__ = [
    "TEST_SETS",
    "ShiftedSet",
    "Splits",
    "corrupt",
    "corrupt_mnist",
    "corruptions",
    "download",
    "from_arrays",
    "from_folder",
    "from_npz",
    "load",
    "load_shifted",
    "streams",
    "write_corrupted",
]
