"""ImageNet-A: 7,500 photographs of 200 classes on which ResNet-50 fails."""

from qact.datasets.registry import archive, register
from qact.datasets.requests import ImageFolders

ORIGIN = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar"
DOWNLOADS = (archive(ORIGIN, "c3e55429088dc681f30d81f4726b6595"),)

register(
    "imagenet-a",
    paper="Hendrycks, Zhao, Basart, Steinhardt and Song 2021, arXiv 1907.07174",
    origin=ORIGIN,
    downloads=DOWNLOADS,
    shifted=True,
)(ImageFolders("imagenet-a", ("imagenet-a", "."), 7_500, 224, ORIGIN, DOWNLOADS))
