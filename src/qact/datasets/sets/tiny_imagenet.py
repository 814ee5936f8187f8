"""Tiny ImageNet as it is published: 200 classes of 500 images of 64x64, 50 each for validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qact.datasets.folders import evenly, read_files, read_folder
from qact.datasets.formats import Arrays
from qact.datasets.registry import archive, register
from qact.datasets.splits import Splits, assembled

ORIGIN = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
DOWNLOAD = archive(ORIGIN, "90528d7ca1a48142e341f4ef8d21d0de")


@dataclass(frozen=True)
class TinyImageNet:
    """Reads ``tiny-imagenet-200``; the labels of its test part are not public.

    The labelled validation part is the test part here. Labels follow the sorted WordNet ids. Single
    files have no published checksums: they are counted.
    """

    name: str = "tiny_imagenet"
    folders: tuple[str, ...] = ("tiny-imagenet-200", ".")
    sizes: tuple[int, int] = (100_000, 10_000)

    def __call__(self, root: Path, size: int | None, limit: int | None) -> Splits:
        """Return the splits."""
        class_names = self.classes(root)
        train, test = (self.read(root, which, limit) for which in ("train", "test"))
        return assembled(self.name, train, None, test, class_names)

    def read(self, root: Path, split: str, limit: int | None) -> Arrays:
        """Return images and labels of ``"train"`` or ``"test"``; ``limit`` of them, spread."""
        folder, ids = self._folder(root), self._ids(root)
        if split == "train":
            arrays, _ = read_folder(folder / "train", None, limit, ids)
        else:
            arrays = self._validation(folder / "val", ids, limit)
        expected = self.sizes[split != "train"]
        if limit is None and len(arrays[1]) != expected:
            raise ValueError(
                f"{folder} has {len(arrays[1])} {split} images, {self._expected(expected)}"
            )
        return arrays

    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the first word for each class."""
        words = self._folder(root) / "words.txt"
        if not words.is_file():
            return self._ids(root)
        names = dict(line.split("\t", 1) for line in words.read_text().splitlines() if "\t" in line)
        return tuple(names.get(key, key).split(",")[0] for key in self._ids(root))

    def _validation(self, folder: Path, ids: tuple[str, ...], limit: int | None) -> Arrays:
        table = folder / "val_annotations.txt"
        if not table.is_file():
            raise FileNotFoundError(f"{table} is missing; {self._expected(self.sizes[1])}")
        label, files = {key: i for i, key in enumerate(ids)}, []
        for line in table.read_text().splitlines():
            name, key, *_ = line.split("\t")
            files.append((folder / "images" / name, label[key]))
        return read_files(evenly(files, limit))

    def _ids(self, root: Path) -> tuple[str, ...]:
        path = self._folder(root) / "wnids.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {self._expected(self.sizes[0])}")
        return tuple(sorted(path.read_text().split()))

    def _expected(self, count: int) -> str:
        sums = f"{DOWNLOAD.file} has {DOWNLOAD.algorithm} {DOWNLOAD.checksum}"
        return f"expected {count} images ({sums}); origin: {ORIGIN}"

    def _folder(self, root: Path) -> Path:
        found = [
            root / folder for folder in self.folders if (root / folder / "wnids.txt").is_file()
        ]
        return found[0] if found else root / self.folders[0]


register(
    "tiny_imagenet",
    paper="Le and Yang 2015, Stanford CS 231N: Tiny ImageNet Visual Recognition Challenge",
    origin=ORIGIN,
    downloads=(DOWNLOAD,),
)(TinyImageNet())
