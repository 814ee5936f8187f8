"""Test sets under shift as others have published them: labelled images, nothing to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from qact.datasets.arrays import pair, part
from qact.datasets.corrupted import read_mnist_c, read_severity
from qact.datasets.data import data_folder
from qact.datasets.folders import read_folder
from qact.datasets.formats import Arrays, checked_bytes, parse_npy
from qact.datasets.origins import ORIGINS
from qact.registry import unknown

# The folders that archives and users leave, and the number of images of a complete set.
_FOLDERS: dict[str, tuple[tuple[str, ...], int]] = {
    "cifar10.1": (("CIFAR-10.1", "cifar10.1", "."), 2_000),
    "cifar10-c": (("CIFAR-10-C", "."), 0),
    "cifar100-c": (("CIFAR-100-C", "."), 0),
    "mnist-c": (("mnist_c", "MNIST-C", "."), 0),
    "tiny_imagenet-c": (("Tiny-ImageNet-C", "TinyImageNet-C", "."), 10_000),
    "imagenet-c": (("imagenet-c", "ImageNet-C", "."), 50_000),
    "imagenet-a": (("imagenet-a", "."), 7_500),
    "imagenet-r": (("imagenet-r", "."), 30_000),
    "imagenet-sketch": (("sketch", "imagenet-sketch", "ImageNet-Sketch"), 50_889),
}
TEST_SETS = tuple(_FOLDERS)
_SKETCH = "https://github.com/HaohanWang/ImageNet-Sketch"
_WITH_SEVERITY = ("cifar10-c", "cifar100-c", "tiny_imagenet-c", "imagenet-c")


@dataclass(frozen=True)
class ShiftedSet:
    """Labelled test images: uint8 (N, C, H, W), int64 (N,); unknown ``class_names`` are empty."""

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()


def load_shifted(
    name: str,
    corruption: str | None = None,
    severity: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    download: bool = False,
) -> ShiftedSet:
    """Read a published test set under shift.

    Args:
        name: one of ``qact.shift.TEST_SETS``: ``"cifar10.1"``; ``"cifar10-c"``, ``"cifar100-c"``
            and ``"mnist-c"`` (``.npy`` files; those of ``qact corrupt`` too);
            ``"tiny_imagenet-c"``, ``"imagenet-c"``, ``"imagenet-a"``, ``"imagenet-r"`` and
            ``"imagenet-sketch"`` (folders).
        corruption: for the sets whose name ends in ``-c``.
        severity: 1 to 5, for these but MNIST-C, which has one.
        root: folder above or of the set; default the environment variable ``QACT_DATA``.
        size: side in pixels for image files (default 64 for Tiny ImageNet, else 224).
        limit: at most that many images, spread evenly.
        class_names: folder names in the order of the labels; ImageNet-A and -R have 200 of the
            1000, and with these names the labels are those of a classifier of 1000. By default the
            sorted folders.
        download: get what is missing from the public origin first.

    Raises:
        ValueError: unknown names, a severity outside 1 to 5, or a damaged or incomplete set.
        FileNotFoundError: a file is missing; the message names the expected checksum and origin.
    """
    if name not in _FOLDERS:
        raise unknown("test set", name, TEST_SETS)
    _check_request(name, corruption, severity, limit)
    above = data_folder(name, _origin(name), root, download)
    folder = _found(name, above, corruption)
    if name == "cifar10.1":
        arrays: Arrays = _cifar10_1(folder)
    elif name == "mnist-c":
        arrays = read_mnist_c(folder, str(corruption), origin=_origin(name))
    elif name in ("cifar10-c", "cifar100-c"):
        arrays = read_severity(folder, str(corruption), severity or 0, _origin(name), name)
    else:
        return _from_files(name, folder, corruption, severity, size, limit, class_names)
    return ShiftedSet(name, *part(_spread(arrays, limit)))


def _origin(name: str) -> str:
    return ORIGINS[name][0].url if name in ORIGINS else _SKETCH


def _check_request(
    name: str, corruption: str | None, severity: int | None, limit: int | None
) -> None:
    if name.endswith("-c") != (corruption is not None):
        need = "needs a corruption" if corruption is None else "has no corruptions"
        raise ValueError(f"{name!r} {need}, got corruption={corruption!r}")
    if name in _WITH_SEVERITY and (isinstance(severity, bool) or severity not in range(1, 6)):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    if name not in _WITH_SEVERITY and severity is not None:
        raise ValueError(f"{name!r} has no severities, got severity={severity!r}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be a positive integer or None, got {limit!r}")


def _found(name: str, above: Path, corruption: str | None) -> Path:
    for folder in _FOLDERS[name][0]:
        if (above / folder).is_dir() and (folder != "." or name not in ("imagenet-c",)):
            return above / folder
    return above / _FOLDERS[name][0][0]


def _cifar10_1(folder: Path) -> Arrays:
    parts = [
        parse_npy(
            checked_bytes(folder / Path(item.file).name, item.checksum, item.url, item.algorithm)
        )
        for item in ORIGINS["cifar10.1"]
    ]
    return pair(parts[0], parts[1], "cifar10.1")


def _from_files(
    name: str,
    folder: Path,
    corruption: str | None,
    severity: int | None,
    size: int | None,
    limit: int | None,
    class_names: Sequence[str] | None,
) -> ShiftedSet:
    expected = _FOLDERS[name][1]
    sums = ", ".join(f"{i.file} has {i.algorithm} {i.checksum}" for i in ORIGINS.get(name, ()))
    said = f"expected {expected} images{f' ({sums})' if sums else ''}; origin: {_origin(name)}"
    here = folder
    if corruption is not None:
        nested = folder if (folder / corruption).is_dir() else _group(folder, corruption)
        here = nested / corruption / str(severity)
    if not here.is_dir():
        raise FileNotFoundError(f"{here} is missing; {said}")
    side = size or (64 if name == "tiny_imagenet-c" else 224)
    try:
        arrays, found = read_folder(here, side, limit, class_names)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {said}") from error
    if limit is None and len(arrays[1]) != expected:
        raise ValueError(f"{here} holds {len(arrays[1])} images, {said}")
    return ShiftedSet(name, *part(arrays), tuple(found))


def _group(folder: Path, corruption: str) -> Path:
    """ImageNet-C's archives may be kept in folders of their own, noise/gaussian_noise/..."""
    groups = [p.parent for p in sorted(folder.glob(f"*/{corruption}")) if p.is_dir()]
    return groups[0] if groups else folder


def _spread(arrays: Arrays, limit: int | None) -> Arrays:
    images, labels = arrays
    if limit is None or limit >= len(labels):
        return arrays
    index = [i * len(labels) // limit for i in range(limit)]
    return images[index], labels[index]
