"""Folders of image files, one folder per class, as one tensor of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qact import checks, extras
from qact.datasets.formats import Arrays

_SIXTEEN = ("PNG", "PPM")  # grey values of 16 bits are of mode "I" there, to some Pillows
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in ``root``, sorted: their place is the label.

    Raises:
        FileNotFoundError: no such folder, or none in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: it should hold one folder of images per class")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise FileNotFoundError(f"{root} holds no folders: one per class, with images, is needed")
    return tuple(names)


def read_folder(
    root: Path,
    size: int | None = None,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Arrays, tuple[str, ...]]:
    """Read ``root/<class>/**/<image>``; what is hidden (``.name``) is left out.

    Args:
        root: folder of the classes.
        size: side in pixels: the shorter side is resized to it (bilinear), the centre cut out; None
            if all images have one size.
        limit: at most that many images, spread evenly over the sorted files.
        class_names: names of the classes in the order of their labels, if not those found, sorted.

    Returns:
        (images uint8 (N, 3, H, W), labels int64 (N,)) and the names of the classes.

    Raises:
        FileNotFoundError: no folder or no images.
        ValueError: a file is no image, a folder no class or of no images, or sizes differ without
            ``size``.
        ImportError: Pillow is not installed.
    """
    found = class_folders(root)
    names = tuple(class_names) if class_names is not None else found
    strange = [name for name in found if name not in names]
    if strange:
        raise ValueError(f"{root / strange[0]} is none of the {len(names)} classes")
    label = {name: i for i, name in enumerate(names)}
    images = {name: _images(root / name) for name in found}
    files = [(path, label[name]) for name in found for path in images[name]]
    if not files:
        raise FileNotFoundError(f"no images ({', '.join(SUFFIXES)}) in the folders of {root}")
    if class_names is None and not all(images.values()):  # a test part may lack a class
        empty = next(name for name in found if not images[name])
        raise ValueError(
            f"{root / empty} holds no images ({', '.join(SUFFIXES)}), and would be a class of none"
        )
    files = evenly(files, limit)
    return read_files(files, size), names


def _images(folder: Path) -> list[Path]:
    """Image files below a folder; not macOS's ``._x.png``, nor those in ``.ipynb_checkpoints``."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    ]


def evenly(files: list[tuple[Path, int]], limit: int | None) -> list[tuple[Path, int]]:
    """Return at most ``limit`` of the files, spread evenly, so that every class keeps its share."""
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


def read_files(files: Sequence[tuple[Path, int]], size: int | None = None) -> Arrays:
    """Read (path, label) pairs; see :func:`read_folder`."""
    if size is not None:
        checks.room(f"size={size} for {len(files)} images", 3 * len(files) * size**2)
    first = _pixels(files[0][0], size)
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, (path, _) in enumerate(files):
        image = first if i == 0 else _pixels(path, size)
        if image.shape != first.shape:
            height, width = image.shape[:2]
            raise ValueError(
                f"{path} has {width}x{height} pixels, {files[0][0]} "
                f"{first.shape[1]}x{first.shape[0]}; give a size to cut them alike"
            )
        images[i] = image
    return images.transpose(0, 3, 1, 2), np.array([label for _, label in files], np.int64)


def _pixels(path: Path, size: int | None) -> np.ndarray:
    with extras.needed("a folder of image files", "images"):
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(path) as file:
            image = _eight_bits(file).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {checks.reason(error)}") from error
    if size is not None:
        w, h = image.size
        scale = size / min(w, h)
        if scale != 1:
            shape = (max(size, round(w * scale)), max(size, round(h * scale)))
            image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def _eight_bits(image: Any) -> Any:
    """An image, or the high bytes of one of 16 bits, as Pillow reads colours of 16 bits itself.

    Its ``convert`` cuts grey values off at 255 instead, which leaves white.
    """
    from PIL import Image

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN)
    if sixteen:
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise OSError(f"its pixels have 32 bits (mode {image.mode!r}); save it with 8 or 16")
    return image
