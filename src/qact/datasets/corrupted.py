"""Readers of published corrupted sets in ``.npy`` files: CIFAR-10-C's layout and MNIST-C's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qact import checks
from qact.datasets import manifest
from qact.datasets.arrays import as_images, as_labels
from qact.datasets.download import digest
from qact.datasets.formats import Arrays
from qact.datasets.registry import Request, ShiftedSet
from qact.datasets.requests import found, shifted
from qact.registry import unknown


class Severities:
    """Reads CIFAR-10-C's layout: ``<corruption>.npy`` of five severities, and ``labels.npy``."""

    def __init__(self, name: str, origin: str, folders: tuple[str, ...], md5: dict[str, str]):
        self.name, self.origin, self.folders, self.md5 = name, origin, folders, md5

    def __call__(self, root: Path, request: Request) -> ShiftedSet:
        """Return one severity of one corruption."""
        folder, severity = found(root, self.folders), request.severity or 0
        arrays = read_severity(folder, str(request.corruption), severity, self.origin, self.md5)
        return shifted(self.name, arrays, request.limit)


def read_severity(
    folder: Path,
    corruption: str,
    severity: int,
    origin: str = "",
    md5: Mapping[str, str] | None = None,
) -> Arrays:
    """Read one severity of ``<corruption>.npy``, uint8 (5 N, H, W, C), and its labels.

    Checksums come from the folder's ``manifest.json``, if it was written by
    :func:`qact.shift.write_corrupted`, else from ``md5``, by the names of the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated or altered, or of another shape.
    """
    here = sorted(p.stem for p in folder.glob("*.npy") if p.stem != "labels")
    table = md5 or {}
    if corruption not in here and corruption not in table:
        raise unknown("corruption", corruption, here or table, f"in {folder}")
    images = _open(folder, corruption, origin, table)
    labels = _open(folder, "labels", origin, table)
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or len(images) % 5 or not len(images):
        raise ValueError(
            f"{folder / corruption}.npy must be uint8 (5 N, H, W, C), got {images.dtype} "
            f"{images.shape}"
        )
    n = len(images) // 5
    here_labels = as_labels(labels, 5 * n, f"{folder / 'labels.npy'}: labels")
    part = slice((severity - 1) * n, severity * n)
    channels_last = images[part] if images.ndim == 4 else images[part][..., None]
    return channels_last.transpose(0, 3, 1, 2), here_labels[part]


def read_mnist_c(folder: Path, corruption: str, split: str = "test", origin: str = "") -> Arrays:
    """Read ``<corruption>/test_images.npy``, uint8 (N, 28, 28, 1), and its labels.

    Only the archive of MNIST-C has a published checksum; of the files the shapes are checked.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or of another shape.
    """
    here = sorted(p.parent.name for p in folder.glob("*/test_images.npy"))
    if corruption not in here:
        if not here:
            raise FileNotFoundError(
                f"{folder / corruption / 'test_images.npy'} is missing; origin: {origin}"
            )
        raise unknown("corruption", corruption, here, f"in {folder}")
    images = as_images(_load(folder / corruption / f"{split}_images.npy", origin))
    labels = _load(folder / corruption / f"{split}_labels.npy", origin)
    return images, as_labels(labels, len(images), f"{folder / corruption}: labels")


def _open(folder: Path, stem: str, origin: str, md5: Mapping[str, str]) -> np.ndarray:
    path, tail = folder / f"{stem}.npy", f"; origin: {origin}" if origin else ""
    written = manifest.read(folder)
    if written is not None:
        algorithm, expected = "sha256", written["files"].get(path.name)
    else:
        algorithm, expected = "md5", md5.get(stem)
    if not path.is_file():
        said = f" (expected {algorithm} {expected})" if expected else ""
        raise FileNotFoundError(f"{path} is missing{said}{tail}")
    found = digest(path, algorithm) if expected or written is not None else None
    if found != expected:
        raise ValueError(
            f"{path} is truncated or altered: {algorithm} is {found} "
            f"({path.stat().st_size} bytes), expected {expected}{tail}"
        )
    return _load(path, origin)


def _load(path: Path, origin: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; origin: {origin}") from error
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {checks.reason(error)}; origin: {origin}") from error
