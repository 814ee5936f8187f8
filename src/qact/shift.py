"""Distribution shift: data sets, augmentation, streams, corruptions of CIFAR-10-C and MNIST-C."""

from qact.corruptions import corrupt, corrupt_mnist, corruptions
from qact.datasets import streams
from qact.datasets.data import load
from qact.datasets.download import download
from qact.datasets.local import from_folder, from_npz
from qact.datasets.registry import ShiftedSet, names
from qact.datasets.shifted import load_shifted
from qact.datasets.splits import Splits, from_arrays
from qact.datasets.writer import write_corrupted


def __getattr__(name: str) -> tuple[str, ...]:
    if name == "TEST_SETS":  # asked for late: then those of others are among them
        return tuple(names(shifted=True))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "TEST_SETS",  # noqa: F822
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
