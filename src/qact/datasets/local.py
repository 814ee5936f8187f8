"""Data sets of one's own: a folder of images, or an ``.npz`` file of arrays."""

from __future__ import annotations

import os
from pathlib import Path

from qact.datasets.arrays import read_npz
from qact.datasets.folders import read_folder
from qact.datasets.splits import Splits, assembled, from_arrays


def from_folder(
    root: str | os.PathLike[str], size: int | None = None, limit: int | None = None
) -> Splits:
    """Read a folder of images: ``root/train/<class>/...`` and ``root/test/<class>/...``.

    ``root/val`` is the validation part; without it a tenth of the training images is. Without
    ``test``, ``val`` is the test part. A root that holds the classes themselves is cut into all
    three parts, stratified with a fixed seed.

    Args:
        root: the folder.
        size: side in pixels, see :func:`qact.datasets.folders.read_folder`.
        limit: at most that many images of each part, spread over the classes.

    Raises:
        FileNotFoundError: no folder or no images.
        ValueError: a file is no image, sizes differ without ``size``, or a folder holds none.
        ImportError: Pillow is not installed.
    """
    folder = Path(root).expanduser()
    if not (folder / "train").is_dir():
        arrays, names = read_folder(folder, size, limit)
        return assembled(folder.name, arrays, None, None, names)
    train, names = read_folder(folder / "train", size, limit)
    others = [
        read_folder(folder / which, size, limit, names)[0] if (folder / which).is_dir() else None
        for which in ("val", "test")
    ]
    val, test = others if others[1] is not None else (None, others[0])
    return assembled(folder.name, train, val, test, names)


def from_npz(path: str | os.PathLike[str], limit: int | None = None) -> Splits:
    """Read ``train_images``, ``train_labels`` and so on for ``val`` and ``test`` (both optional).

    Args:
        path: the file; ``class_names`` (K,) in it are names of the classes.
        limit: at most that many images of each part, some of every class.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or an array is missing or does not fit.
    """
    file = Path(path).expanduser()
    arrays = read_npz(file)
    parts = {}
    for which in ("train", "test", "val"):
        keys = [f"{which}_images", f"{which}_labels"]
        found = [key for key in keys if key in arrays]
        if len(found) == 1 or (which == "train" and not found):
            lacking = ", ".join(key for key in keys if key not in arrays)
            raise ValueError(f"{file} lacks {lacking}; it has {', '.join(arrays) or 'nothing'}")
        parts[which] = (arrays[keys[0]], arrays[keys[1]]) if found else None
    names = [str(n) for n in arrays["class_names"].flat] if "class_names" in arrays else None
    train = parts["train"]
    assert train is not None
    splits = from_arrays(train, parts["test"], parts["val"], class_names=names, name=file.stem)
    return splits if limit is None else splits.limited(limit)
