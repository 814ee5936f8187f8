"""Readers of published corrupted sets in ``.npy`` files: CIFAR-10-C's layout and MNIST-C's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qact.datasets import manifest
from qact.datasets.arrays import as_images, as_labels
from qact.datasets.download import digest
from qact.datasets.formats import Arrays
from qact.registry import unknown

# MD5 of the files of CIFAR-10-C and CIFAR-100-C.
MD5: dict[str, dict[str, str]] = {
    "cifar10-c": {
        "brightness": "0a81ef75e0b523c3383219c330a85d48",
        "contrast": "3c8262171c51307f916c30a3308235a8",
        "defocus_blur": "7d1322666342a0702b1957e92f6254bc",
        "elastic_transform": "9421657c6cd452429cf6ce96cc412b5f",
        "fog": "7b397314b5670f825465fbcd1f6e9ccd",
        "frost": "31f6ab3bce1d9934abfb0cc13656f141",
        "gaussian_blur": "c33370155bc9b055fb4a89113d3c559d",
        "gaussian_noise": "ecaf8b9a2399ffeda7680934c33405fd",
        "glass_blur": "7361fb4019269e02dbf6925f083e8629",
        "impulse_noise": "2090e01c83519ec51427e65116af6b1a",
        "jpeg_compression": "2b9cc4c864e0193bb64db8d7728f8187",
        "labels": "c439b113295ed5254878798ffe28fd54",
        "motion_blur": "fffa5f852ff7ad299cfe8a7643f090f4",
        "pixelate": "0f14f7e2db14288304e1de10df16832f",
        "saturate": "1cfae0964219c5102abbb883e538cc56",
        "shot_noise": "3a7239bb118894f013d9bf1984be7f11",
        "snow": "bb238de8555123da9c282dea23bd6e55",
        "spatter": "8a5a3903a7f8f65b59501a6093b4311e",
        "speckle_noise": "ef00b87611792b00df09c0b0237a1e30",
        "zoom_blur": "6ea8e63f1c5cdee1517533840641641b",
    },
    "cifar100-c": {
        "brightness": "f22d7195aecd6abb541e27fca230c171",
        "contrast": "322bb385f1d05154ee197ca16535f71e",
        "defocus_blur": "d923e3d9c585a27f0956e2f2ad832564",
        "elastic_transform": "a0792bd6581f6810878be71acedfc65a",
        "fog": "4efc7ebd5e82b028bdbe13048e3ea564",
        "frost": "3a39c6823bdfaa0bf8b12fe7004b8117",
        "gaussian_blur": "5204ba0d557839772ef5a4196a052c3e",
        "gaussian_noise": "ecc4d366eac432bdf25c024086f5e97d",
        "glass_blur": "0bf384f38e5ccbf8dd479d9059b913e1",
        "impulse_noise": "3b3c210ddfa0b5cb918ff4537a429fef",
        "jpeg_compression": "c851b7f1324e1d2ffddeb76920576d11",
        "labels": "bb4026e9ce52996b95f439544568cdb2",
        "motion_blur": "732a7e2e54152ff97c742d4c388c5516",
        "pixelate": "96c00c60f144539e14cffb02ddbd0640",
        "saturate": "c0697e9fdd646916a61e9c312c77bf6b",
        "shot_noise": "b0a1fa6e1e465a747c1b204b1914048a",
        "snow": "0237be164583af146b7b144e73b43465",
        "spatter": "12ccf41d62564d36e1f6a6ada5022728",
        "speckle_noise": "e3f215b1a0f9fd9fd6f0d1cf94a7ce99",
        "zoom_blur": "0204613400c034a81c4830d5df81cb82",
    },
}


def read_severity(
    folder: Path, corruption: str, severity: int, origin: str = "", original: str | None = None
) -> Arrays:
    """Read one severity of ``<corruption>.npy``, uint8 (5 N, H, W, C), and its labels.

    Checksums come from the folder's ``manifest.json``, if it was written by
    :func:`qact.shift.write_corrupted`, else from the table of the published set ``original``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated or altered, or of another shape; the severity is not 1 to 5.
    """
    if isinstance(severity, bool) or severity not in range(1, 6):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    here = sorted(p.stem for p in folder.glob("*.npy") if p.stem != "labels")
    table = MD5.get(original or "", {})
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


def _open(folder: Path, stem: str, origin: str, md5: dict[str, str]) -> np.ndarray:
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
        raise ValueError(f"{path} is damaged: {error}; origin: {origin}") from error
