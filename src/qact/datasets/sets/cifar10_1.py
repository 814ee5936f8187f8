"""CIFAR-10.1: 2,000 new test images for CIFAR-10."""

from pathlib import Path

from qact.datasets.arrays import pair
from qact.datasets.formats import checked_bytes, parse_npy
from qact.datasets.registry import Download, Request, ShiftedSet, entry, register
from qact.datasets.requests import found, shifted

BASE = "https://raw.githubusercontent.com/modestyachts/CIFAR-10.1/master/datasets"
SUMS = {
    "cifar10.1_v6_data.npy": "2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6",
    "cifar10.1_v6_labels.npy": "ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448",
}


@register(
    "cifar10.1",
    paper="Recht, Roelofs, Schmidt and Shankar 2018, arXiv 1806.00451",
    origin=f"{BASE}/cifar10.1_v6_data.npy",
    downloads=tuple(
        Download(f"{BASE}/{file}", f"CIFAR-10.1/{file}", "sha256", checksum)
        for file, checksum in SUMS.items()
    ),
    shifted=True,
)
def cifar10_1(root: Path, request: Request) -> ShiftedSet:
    """Images and labels of version 6."""
    folder = found(root, ("CIFAR-10.1", "cifar10.1", "."))
    images, labels = (
        parse_npy(
            checked_bytes(folder / Path(item.file).name, item.checksum, item.url, item.algorithm)
        )
        for item in entry("cifar10.1").downloads
    )
    return shifted("cifar10.1", pair(images, labels, "cifar10.1"), request.limit)
