"""CIFAR-100: 60,000 photographs of 32 x 32, 100 classes."""

from qact.datasets.registry import archive, register
from qact.datasets.sources import Source

ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"

register(
    "cifar100",
    paper="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    origin=ORIGIN,
    downloads=(archive(ORIGIN, "eb9058c3a382ffc7106e4002c42a8d85"),),
)(
    Source(
        "cifar100",
        ORIGIN,
        ("cifar-100-python", "."),
        {
            "train": (("train", "16019d7e3df5f24257cddd939b257f8d"),),
            "test": (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        },
        label_key="fine_labels",
        meta=("meta", "7973b15100ade9c7d40fb424638fde48", "fine_label_names"),
    )
)
