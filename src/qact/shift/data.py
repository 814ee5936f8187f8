"""Data sets as tensors in memory: ``load(name)`` gives training, validation and test parts."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from qact.shift.sources import SOURCES, Arrays

NAMES = ("digits", *SOURCES)
_SPLIT_SEED = 0
_VALIDATION = 0.1

Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Splits:
    """A data set cut in three; each part is (images uint8 (N, C, H, W), labels int64 (N,)).

    Choose on ``val``; ``test`` is for the number that is reported.
    """

    name: str
    train: Part
    val: Part
    test: Part
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def load(
    name: str,
    size: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Splits:
    """Load a data set, cut into training, validation and test parts. Nothing is downloaded.

    ``"digits"`` comes with scikit-learn: its 1797 images are scaled to 0..255, resized to ``size``
    (bilinear) and cut, stratified by class with a fixed seed, into 1000 / 297 / 500.

    ``"cifar10"``, ``"cifar100"``, ``"mnist"`` and ``"fashion_mnist"`` are read from ``root``, as
    torchvision lays them out (MD5 checked) or as a coded folder with its own ``load.py``, which is
    then run (SHA-256 checked). The test part is the official one. Validation is a tenth of the
    official training part, stratified by class with a fixed seed; the rest keeps its order.

    Args:
        name: ``"digits"``, ``"cifar10"``, ``"cifar100"``, ``"mnist"`` or ``"fashion_mnist"``.
        size: side of the digits in pixels (default 32); the others have their own.
        root: folder of the files; default the environment variable ``QACT_DATA``.
        limit: use the first ``limit`` images of the official training and test parts only.

    Returns:
        A :class:`Splits`.

    Raises:
        ValueError: unknown name, bad size or limit, no root, or a truncated or altered file.
        FileNotFoundError: a file is missing; like the above, the message names the file, the
            checksum that is expected and the public origin.
        ImportError: digits without scikit-learn.

    Example:
        >>> digits = load("digits", size=16)
        >>> [tuple(images.shape) for images, _ in (digits.train, digits.val, digits.test)]
        [(1000, 1, 16, 16), (297, 1, 16, 16), (500, 1, 16, 16)]
    """
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ValueError(f"unknown data set {name!r}; {hint}known: {', '.join(NAMES)}")
    for what, value in (("size", size), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{what} must be a positive integer or None, got {value!r}")
    if name == "digits":
        return _digits(32 if size is None else size, limit)
    if size is not None:
        raise ValueError(f"size is for 'digits' only; {name!r} has its own, got size={size!r}")
    return _from_disk(name, _folder(name, root), limit)


def _digits(size: int, limit: int | None) -> Splits:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install 'qact[bench]'"
        ) from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    images = interpolate(images, (size, size), mode="bilinear", align_corners=False)
    order = stratified_order(bunch.target, _SPLIT_SEED)
    whole = (images.round().to(torch.uint8).numpy(), bunch.target.astype(np.int64))
    train, val, test = (np.sort(i) for i in np.split(order, [1000, 1297]))
    parts = [_part(whole, i) for i in (train[:limit], val, test[:limit])]
    return Splits("digits", parts[0], parts[1], parts[2], tuple("0123456789"))


def _from_disk(name: str, root: Path, limit: int | None) -> Splits:
    source = SOURCES[name]
    class_names = source.classes(root)
    official = source.read(root, "train", limit)
    order = stratified_order(official[1], _SPLIT_SEED)
    cut = round(_VALIDATION * len(order))
    train, val = _part(official, np.sort(order[cut:])), _part(official, np.sort(order[:cut]))
    test = source.read(root, "test", limit)
    return Splits(name, train, val, _part(test, np.arange(len(test[1]))), class_names)


def _folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    given = root if root is not None else os.environ.get("QACT_DATA")
    origin = f"origin: {SOURCES[name].origin}"
    if not given:
        raise ValueError(
            f"where is {name!r}? pass root=... or set QACT_DATA to its folder; {origin}"
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to read {name!r} from; {origin}")
    return folder


def _part(arrays: Arrays, index: np.ndarray) -> Part:
    images, labels = arrays
    return torch.from_numpy(images[index]), torch.from_numpy(labels[index])


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Permutation of which every prefix has each class in proportion, to within one image or so.

    Example:
        >>> labels = np.array([0] * 6 + [1] * 2)
        >>> labels[stratified_order(labels, 0)[:4]].tolist().count(1)
        1
    """
    # RandomState's streams are frozen by numpy's policy: the split will not move with a version.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[shuffled] == label)
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return shuffled[np.argsort(place, kind="stable")]
