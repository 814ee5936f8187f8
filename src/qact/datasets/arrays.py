"""Any pair of arrays as images and labels, and ``.npz`` files of them; nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact import checks
from qact.datasets.formats import Arrays


def as_images(images: Any, what: str = "images") -> np.ndarray:
    """Return images as uint8 (N, C, H, W).

    Args:
        images: array or tensor, (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; bytes, or
            floats in [0, 1], which are rounded to multiples of 1/255.
        what: how errors call them.

    Raises:
        ValueError: another shape, or floats outside [0, 1].
        TypeError: another dtype.

    Example:
        >>> as_images(np.zeros((2, 8, 9, 3), np.uint8)).shape
        (2, 3, 8, 9)
    """
    x = images.numpy(force=True) if isinstance(images, Tensor) else np.asarray(images)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape[2:]:
        raise ValueError(
            f"{what} must have shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, got "
            f"{tuple(np.shape(images))}"
        )
    if np.issubdtype(x.dtype, np.floating):
        checks.unit(f"{what} of floats", x)
        x = np.round(x * 255).astype(np.uint8)
    if x.dtype != np.uint8:
        fits = np.issubdtype(x.dtype, np.integer) and x.size and 0 <= x.min() <= x.max() <= 255
        hint = "; they lie in 0 to 255: images.astype(np.uint8)" if fits else ""
        raise TypeError(f"{what} must be bytes or floats in [0, 1], got {x.dtype}{hint}")
    return x


def as_labels(labels: Any, n: int, what: str = "labels") -> np.ndarray:
    """Return labels as int64 (N,).

    Raises:
        ValueError: there are not ``n``, or one is negative.
        TypeError: they are no integers.
    """
    y = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    if not np.issubdtype(y.dtype, np.integer):
        shown = f", as {y.flat[0].item()!r}" if y.size else ""
        raise TypeError(
            f"{what} must be integers, got {y.dtype}{shown}; number the classes: "
            "np.unique(labels, return_inverse=True)[1]"
        )
    if y.shape != (n,):
        raise ValueError(f"{what} must have shape ({n},), one per image, got {y.shape}")
    if n and y.min() < 0:
        raise ValueError(f"{what} must not be negative, got {y.min()}")
    if n and y.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{what} must be below 2^63, got {y.max()}")
    return y.astype(np.int64)


def pair(images: Any, labels: Any, what: str = "") -> Arrays:
    """Return images and labels that fit each other; see :func:`as_images`."""
    x = as_images(images, f"{what} images".strip())
    return x, as_labels(labels, len(x), f"{what} labels".strip())


def part(arrays: Arrays, index: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Return arrays (or those at ``index``) as tensors."""
    images, labels = arrays if index is None else (arrays[0][index], arrays[1][index])
    whole, labels = np.ascontiguousarray(images), np.ascontiguousarray(labels)
    if not whole.flags.writeable:  # a view of a file's bytes, which tensors must not write to
        whole = whole.copy()
    return torch.from_numpy(whole), torch.from_numpy(labels)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds objects.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it is one array (.npy), not an .npz file of named ones")
        with found as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as arrays: {checks.reason(error)}") from error
