"""Which files a public data set consists of: names, MD5 checksums, origins."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qact.datasets.formats import (
    Arrays,
    checked_bytes,
    is_coded_folder,
    listed,
    parse_idx,
    read_coded,
    unpickle,
)
from qact.datasets.tiny_imagenet import TinyImageNet

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Source:
    """One public data set in the layout that torchvision leaves on disk.

    ``files`` maps "train" and "test" to (file name, md5) pairs; for idx files they alternate images
    and labels, and the md5 is that of the decompressed file.
    """

    name: str
    origin: str
    folders: tuple[str, ...]
    files: dict[str, tuple[tuple[str, str], ...]]
    class_names: tuple[str, ...] = ()
    label_key: str = ""
    meta: tuple[str, str, str] | None = None  # file, md5, key of the class names

    def read(self, root: Path, split: str, limit: int | None) -> Arrays:
        """Images and labels of ``"train"`` or ``"test"``."""
        if is_coded_folder(root):
            images, labels = read_coded(root, self.name, split, limit, self.origin)
            return images.transpose(0, 3, 1, 2), labels
        images, labels = self._pickles(root, split) if self.meta else self._idx(root, split)
        return images[:limit], labels[:limit]

    def classes(self, root: Path) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""
        if self.class_names:
            return self.class_names
        if is_coded_folder(root):
            return tuple(listed(root / "classes.json", self.name, self.origin))
        assert self.meta is not None
        file, md5, key = self.meta
        path = self._folder(root) / file
        return tuple(unpickle(checked_bytes(path, md5, self.origin))[key])

    def _folder(self, root: Path) -> Path:
        found = [root / folder for folder in self.folders if (root / folder).is_dir()]
        return found[0] if found else root / self.folders[0]

    def _pickles(self, root: Path, split: str) -> Arrays:
        images, labels = [], []
        for file, md5 in self.files[split]:
            batch = unpickle(checked_bytes(self._folder(root) / file, md5, self.origin))
            images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[self.label_key], np.int64))
        return np.concatenate(images), np.concatenate(labels)

    def _idx(self, root: Path, split: str) -> Arrays:
        arrays = []
        for file, md5 in self.files[split]:
            raw, packed = self._folder(root) / file, self._folder(root) / f"{file}.gz"
            path = packed if packed.is_file() and not raw.is_file() else raw
            arrays.append(parse_idx(checked_bytes(path, md5, self.origin)))
        return arrays[0][:, None], arrays[1].astype(np.int64)


def _idx_files(
    train: tuple[str, str], test: tuple[str, str]
) -> dict[str, tuple[tuple[str, str], ...]]:
    def pair(prefix: str, sums: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        kinds = ("images-idx3", "labels-idx1")
        return tuple((f"{prefix}-{k}-ubyte", s) for k, s in zip(kinds, sums, strict=True))

    return {"train": pair("train", train), "test": pair("t10k", test)}


SOURCES: dict[str, Source | TinyImageNet] = {
    source.name: source
    for source in (
        Source(
            "cifar10",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            ("cifar-10-batches-py", "."),
            {
                "train": (
                    ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                    ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                    ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                    ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                    ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                ),
                "test": (("test_batch", "40351d587109b95175f43aff81a1287e"),),
            },
            label_key="labels",
            meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", "label_names"),
        ),
        Source(
            "cifar100",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            ("cifar-100-python", "."),
            {
                "train": (("train", "16019d7e3df5f24257cddd939b257f8d"),),
                "test": (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
            },
            label_key="fine_labels",
            meta=("meta", "7973b15100ade9c7d40fb424638fde48", "fine_label_names"),
        ),
        Source(
            "mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            ("MNIST/raw", "raw", "."),
            _idx_files(
                ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
                ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
            ),
            _DIGITS,
        ),
        Source(
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ("FashionMNIST/raw", "raw", "."),
            _idx_files(
                ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
                ("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
            ),
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
        ),
        TinyImageNet(),
    )
}
