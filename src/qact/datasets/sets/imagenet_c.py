"""ImageNet-C: 50,000 images under corruptions."""

from qact.datasets.registry import archive, register
from qact.datasets.requests import ImageFolders

BASE = "https://zenodo.org/records/2235448/files"
MD5 = {
    "blur": "2d8e81fdd8e07fef67b9334fa635e45c",
    "digital": "89157860d7b10d5797849337ca2e5c03",
    "extra": "d492dfba5fc162d8ec2c3cd8ee672984",
    "noise": "e80562d7f6c3f8834afb1ecf27252745",
    "weather": "33ffea4db4d93fe4a428c40a6ce0c25d",
}
# The files of the five archives lie in folders of their corruptions.
DOWNLOADS = tuple(archive(f"{BASE}/{part}.tar", md5, "imagenet-c") for part, md5 in MD5.items())
ORIGIN = DOWNLOADS[0].url

register(
    "imagenet-c",
    paper="Hendrycks and Dietterich 2019, arXiv 1903.12261",
    origin=ORIGIN,
    downloads=DOWNLOADS,
    shifted=True,
    conditions=("corruption", "severity"),
)(ImageFolders("imagenet-c", ("imagenet-c", "ImageNet-C"), 50_000, 224, ORIGIN, DOWNLOADS))
