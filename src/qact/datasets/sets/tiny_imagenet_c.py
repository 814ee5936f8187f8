"""Tiny-ImageNet-C: 10,000 images of 64 x 64 under corruptions."""

from qact.datasets.registry import archive, register
from qact.datasets.requests import ImageFolders

ORIGIN = "https://zenodo.org/records/2469796/files/TinyImageNet-C.tar"
DOWNLOADS = (archive(ORIGIN, "3d9c6e89c2609aeb4198f84c8edd1ff0"),)

register(
    "tiny_imagenet-c",
    paper="Hendrycks and Dietterich 2019, arXiv 1903.12261",
    origin=ORIGIN,
    downloads=DOWNLOADS,
    shifted=True,
    conditions=("corruption", "severity"),
)(
    ImageFolders(
        "tiny_imagenet-c", ("Tiny-ImageNet-C", "TinyImageNet-C", "."), 10_000, 64, ORIGIN, DOWNLOADS
    )
)
