"""MNIST-C: the test digits of MNIST under 15 corruptions, each of one severity."""

from pathlib import Path

from qact.datasets.corrupted import read_mnist_c
from qact.datasets.registry import Request, ShiftedSet, archive, register
from qact.datasets.requests import found, shifted

ORIGIN = "https://zenodo.org/records/3239543/files/mnist_c.zip"


@register(
    "mnist-c",
    paper="Mu and Gilmer 2019, arXiv 1906.02337",
    origin=ORIGIN,
    downloads=(archive(ORIGIN, "4b34b33045869ee6d424616cd3a65da3"),),
    shifted=True,
    conditions=("corruption",),
)
def mnist_c(root: Path, request: Request) -> ShiftedSet:
    """The digits under one corruption."""
    folder = found(root, ("mnist_c", "MNIST-C", "."))
    arrays = read_mnist_c(folder, str(request.corruption), origin=ORIGIN)
    return shifted("mnist-c", arrays, request.limit)
