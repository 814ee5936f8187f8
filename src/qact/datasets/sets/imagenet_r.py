"""ImageNet-R: 30,000 renditions of 200 classes."""

from qact.datasets.registry import archive, register
from qact.datasets.requests import ImageFolders

ORIGIN = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar"
DOWNLOADS = (archive(ORIGIN, "a61312130a589d0ca1a8fca1f2bd3337"),)

register(
    "imagenet-r",
    paper="Hendrycks et al. 2021, arXiv 2006.16241",
    origin=ORIGIN,
    downloads=DOWNLOADS,
    shifted=True,
)(ImageFolders("imagenet-r", ("imagenet-r", "."), 30_000, 224, ORIGIN, DOWNLOADS))
