"""Where the public gets each data set: addresses, checksums, and what to do with an archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """One file of a public data set.

    Args:
        url: its address.
        file: its path under the root.
        algorithm: ``"md5"`` or ``"sha256"``.
        checksum: of the file as downloaded.
        into: folder under the root that an archive is extracted into; None for a plain file.
    """

    url: str
    file: str
    algorithm: str
    checksum: str
    into: str | None = None


def _archive(url: str, md5: str, into: str = ".") -> Download:
    return Download(url, url.rpartition("/")[2], "md5", md5, into)


def _idx(base: str, folder: str, sums: tuple[str, str, str, str]) -> tuple[Download, ...]:
    parts = [f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
    return tuple(
        Download(base + part, f"{folder}/{part}", "md5", md5)
        for part, md5 in zip(parts, sums, strict=True)
    )


_CIFAR = "https://www.cs.toronto.edu/~kriz"
_ZENODO = "https://zenodo.org/records"
_HENDRYCKS = "https://people.eecs.berkeley.edu/~hendrycks"
_CIFAR10_1 = "https://raw.githubusercontent.com/modestyachts/CIFAR-10.1/master/datasets"
_IMAGENET_C = {
    "blur": "2d8e81fdd8e07fef67b9334fa635e45c",
    "digital": "89157860d7b10d5797849337ca2e5c03",
    "extra": "d492dfba5fc162d8ec2c3cd8ee672984",
    "noise": "e80562d7f6c3f8834afb1ecf27252745",
    "weather": "33ffea4db4d93fe4a428c40a6ce0c25d",
}

# The files of the five .tar of ImageNet-C lie in folders of their corruptions.
ORIGINS: dict[str, tuple[Download, ...]] = {
    "cifar10": (_archive(f"{_CIFAR}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
    "cifar100": (
        _archive(f"{_CIFAR}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ),
    "mnist": _idx(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "MNIST/raw",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": _idx(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "FashionMNIST/raw",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "tiny_imagenet": (
        _archive(
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
        ),
    ),
    "cifar10.1": (
        Download(
            f"{_CIFAR10_1}/cifar10.1_v6_data.npy",
            "CIFAR-10.1/cifar10.1_v6_data.npy",
            "sha256",
            "2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6",
        ),
        Download(
            f"{_CIFAR10_1}/cifar10.1_v6_labels.npy",
            "CIFAR-10.1/cifar10.1_v6_labels.npy",
            "sha256",
            "ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448",
        ),
    ),
    "cifar10-c": (
        _archive(f"{_ZENODO}/2535967/files/CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499"),
    ),
    "cifar100-c": (
        _archive(f"{_ZENODO}/3555552/files/CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3"),
    ),
    "tiny_imagenet-c": (
        _archive(f"{_ZENODO}/2469796/files/TinyImageNet-C.tar", "3d9c6e89c2609aeb4198f84c8edd1ff0"),
    ),
    "mnist-c": (
        _archive(f"{_ZENODO}/3239543/files/mnist_c.zip", "4b34b33045869ee6d424616cd3a65da3"),
    ),
    "imagenet-a": (_archive(f"{_HENDRYCKS}/imagenet-a.tar", "c3e55429088dc681f30d81f4726b6595"),),
    "imagenet-r": (_archive(f"{_HENDRYCKS}/imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337"),),
    "imagenet-c": tuple(
        _archive(f"{_ZENODO}/2235448/files/{part}.tar", md5, "imagenet-c")
        for part, md5 in _IMAGENET_C.items()
    ),
}
