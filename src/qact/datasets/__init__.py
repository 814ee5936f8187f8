"""Data sets, their splits, their published shifts, and the streams in which test images arrive.

``register`` enters a data set of one's own, ``entry`` and ``names`` look into the registry.
"""

from qact.datasets import streams
from qact.datasets.data import load
from qact.datasets.download import download
from qact.datasets.local import from_folder, from_npz
from qact.datasets.registry import DataSet, Request, ShiftedSet, entry, names, register
from qact.datasets.shifted import load_shifted
from qact.datasets.splits import Splits, from_arrays
from qact.datasets.writer import write_corrupted

__all__ = [
    "DataSet",
    "Request",
    "ShiftedSet",
    "Splits",
    "download",
    "entry",
    "from_arrays",
    "from_folder",
    "from_npz",
    "load",
    "load_shifted",
    "names",
    "register",
    "streams",
    "write_corrupted",
]
