"""Data sets as tensors in memory: ``load(name)`` gives training, validation and test parts."""

import os
from pathlib import Path

from qact import checks
from qact.datasets.download import download as fetch_all
from qact.datasets.local import from_folder, from_npz
from qact.datasets.registry import DataSet, entry, names
from qact.datasets.splits import Splits
from qact.registry import unknown


def load(
    name: str,
    size: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    download: bool = False,
) -> Splits:
    """Load a data set, cut into training, validation and test parts.

    ``"digits"`` comes with scikit-learn: its 1797 images are scaled to 0..255, resized to ``size``
    (bilinear) and cut, stratified by class with a fixed seed, into 1000 / 297 / 500.

    ``"cifar10"``, ``"cifar100"``, ``"mnist"`` and ``"fashion_mnist"`` are read from ``root``, as
    torchvision lays them out (MD5 checked) or as a coded folder with its own ``load.py``, which is
    then run (SHA-256 checked); ``"tiny_imagenet"`` as it is published. The test part is the
    official one, for Tiny ImageNet its validation part. Validation is a tenth of the official
    training part, stratified by class with a fixed seed; the rest keeps its order.

    A path instead of a name is a folder of images (:func:`qact.shift.from_folder`) or an ``.npz``
    file of arrays (:func:`qact.shift.from_npz`).

    Args:
        name: one of ``qact.datasets.names(shifted=False)``, or a path: a folder, or a file ending
            in ``.npz``.
        size: side in pixels of the digits (default 32) or of a folder's images; the others have
            their own, and are refused with one.
        root: folder of the files; default the environment variable ``QACT_DATA``.
        limit: use that many images of the official training and test parts only: the first, or,
            of files of one's own, some of every class.
        download: get what is missing from the public origin, see :func:`qact.datasets.download`.

    Returns:
        A :class:`Splits`.

    Raises:
        TypeError: a name that is neither str nor path.
        ValueError: unknown name, bad size or limit, no root, or a truncated or altered file.
        FileNotFoundError: a file is missing; like the above, the message names the file, the
            checksum that is expected and the public origin.
        ConnectionError: ``download`` without a network.
        ImportError: digits without scikit-learn, image files without Pillow.

    Example:
        >>> digits = load("digits", size=16)
        >>> [tuple(images.shape) for images, _ in (digits.train, digits.val, digits.test)]
        [(1000, 1, 16, 16), (297, 1, 16, 16), (500, 1, 16, 16)]
    """
    checks.instance("name", name, (str, os.PathLike), "the name of a data set or a path")
    for what, value in (("size", size), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{what} must be a positive integer or None, got {value!r}")
    here = names(shifted=False)
    if not str(name):
        raise ValueError("name='' must be a data set, a folder of images or an .npz file")
    if name not in here and str(name).endswith(".npz") and not Path(name).is_dir():
        if size is not None:
            raise ValueError(f"size is for 'digits' and folders only, got size={size!r}")
        return from_npz(name, limit)
    if name not in here and (os.sep in str(name) or Path(name).is_dir()):
        return from_folder(name, size, limit)
    if name not in here:
        raise unknown("data set", name, here, "beside a folder of images or an .npz file")
    found = entry(name)
    if size is not None and not found.sized:
        raise ValueError(
            f"size is for 'digits' and folders only; {name!r} has its own, got size={size!r}"
        )
    splits: Splits = found.make(data_folder(found, root, download), size, limit)
    return splits


def data_folder(
    found: DataSet, root: str | os.PathLike[str] | None, download: bool = False
) -> Path | None:
    """Return the folder to read a set from, filled from the public origin if that is wanted.

    None if no folder is given and the set needs none, for it has no origin.
    """
    given = root if root is not None else os.environ.get("QACT_DATA")
    if not found.origin:
        return Path(given).expanduser() if given else None
    name, origin = found.name, found.origin
    if not given:
        raise ValueError(
            f"where is {name!r}? pass root=... or set QACT_DATA to its folder; origin: {origin}"
        )
    folder = Path(given).expanduser()
    if download:
        fetch_all(name, folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to read {name!r} from; origin: {origin}")
    return folder
