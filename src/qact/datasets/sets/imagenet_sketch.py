"""ImageNet-Sketch: 50,889 drawings of the 1,000 classes."""

from qact.datasets.registry import register
from qact.datasets.requests import ImageFolders

ORIGIN = "https://github.com/HaohanWang/ImageNet-Sketch"  # no checksum is published

register(
    "imagenet-sketch",
    paper="Wang, Ge, Lipton and Xing 2019, arXiv 1905.13549",
    origin=ORIGIN,
    shifted=True,
)(
    ImageFolders(
        "imagenet-sketch", ("sketch", "imagenet-sketch", "ImageNet-Sketch"), 50_889, 224, ORIGIN
    )
)
