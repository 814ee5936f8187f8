"""Readers of the layout that torchvision leaves on disk: CIFAR's pickles, MNIST's idx files."""

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
from qact.datasets.registry import Download
from qact.datasets.requests import found
from qact.datasets.splits import Splits, assembled


@dataclass(frozen=True)
class Source:
    """Reads one public data set, from torchvision's layout or from a coded folder.

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

    def __call__(self, root: Path, size: int | None, limit: int | None) -> Splits:
        """Return the splits; the official test part is the test part."""
        class_names = self.classes(root)
        train, test = (self.read(root, which, limit) for which in ("train", "test"))
        return assembled(self.name, train, None, test, class_names)

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
        path = found(root, self.folders) / file
        return tuple(unpickle(checked_bytes(path, md5, self.origin))[key])

    def _pickles(self, root: Path, split: str) -> Arrays:
        images, labels = [], []
        for file, md5 in self.files[split]:
            batch = unpickle(checked_bytes(found(root, self.folders) / file, md5, self.origin))
            images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[self.label_key], np.int64))
        return np.concatenate(images), np.concatenate(labels)

    def _idx(self, root: Path, split: str) -> Arrays:
        arrays = []
        for file, md5 in self.files[split]:
            raw, packed = found(root, self.folders) / file, found(root, self.folders) / f"{file}.gz"
            path = packed if packed.is_file() and not raw.is_file() else raw
            arrays.append(parse_idx(checked_bytes(path, md5, self.origin)))
        return arrays[0][:, None], arrays[1].astype(np.int64)


def idx_files(*sums: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the files of MNIST's layout, from the md5 of images and labels, train and test."""
    files = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    pairs = tuple(zip(files, sums, strict=True))
    return {"train": pairs[:2], "test": pairs[2:]}


def idx_downloads(base: str, folder: str, *sums: str) -> tuple[Download, ...]:
    """Return the downloads of MNIST's layout, from the md5 of the compressed files."""
    files = idx_files(*sums)
    return tuple(
        Download(f"{base}{file}.gz", f"{folder}/{file}.gz", "md5", md5)
        for part in files.values()
        for file, md5 in part
    )
