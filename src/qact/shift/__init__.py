"""Distribution shift: data sets, augmentation, streams, corruptions of CIFAR-10-C and MNIST-C."""

from qact.shift import streams
from qact.shift.data import load
from qact.shift.download import download
from qact.shift.local import from_folder, from_npz
from qact.shift.registry import corrupt, corrupt_mnist, corruptions
from qact.shift.shifted import TEST_SETS, ShiftedSet, load_shifted
from qact.shift.splits import Splits, from_arrays
from qact.shift.writer import write_corrupted

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
