"""Readers of the files that data sets come in: CIFAR's pickles, MNIST's idx, a coded folder.

Every reader takes the path, the checksum that is expected and the public origin, and says all
three when the file is missing, truncated or altered. Nothing is downloaded, and no file of data is
able to run code: pickles are read with a list of four admitted names.
"""

import gzip
import hashlib
import importlib.util
import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from qact import checks

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 (N, C, H, W), labels int64 (N,)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, texts and numpy arrays, and refuses any other name."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]  # its module moved between numpy 1 and 2
        admitted = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"{module}.{name} is not a name of an array")
        return admitted[module, name]


def unpickle(content: bytes) -> Any:
    """Restricted unpickling of a Python 2 pickle of plain containers and numpy arrays.

    Raises:
        pickle.UnpicklingError: the pickle names anything but the parts of a numpy array.

    Example:
        >>> unpickle(pickle.dumps({"labels": [1, 2]}))
        {'labels': [1, 2]}
    """
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


def checked_bytes(path: Path, checksum: str, origin: str, algorithm: str = "md5") -> bytes:
    """Content of a file, decompressed if its name ends in ``.gz``, held against its checksum.

    Args:
        path: the file.
        checksum: what is expected, of the decompressed content.
        origin: where the public can get the file.
        algorithm: ``"md5"`` or ``"sha256"``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the content is truncated or altered.
    """
    expected = f"expected {algorithm} {checksum}"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing ({expected}); origin: {origin}")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        why = checks.reason(error)
        raise ValueError(f"{path} is damaged: {why} ({expected}); origin: {origin}") from error
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != checksum:
        what = f"{algorithm} of the decompressed content" if path.suffix == ".gz" else algorithm
        raise ValueError(
            f"{path} is truncated or altered: {what} is {found} ({len(content)} bytes), "
            f"expected {checksum}; origin: {origin}"
        )
    return content


def parse_npy(content: bytes) -> np.ndarray:
    """Array of an ``.npy`` file; objects are refused.

    Raises:
        ValueError: it is no such file, or holds objects.
    """
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"not an .npy file of numbers: {checks.reason(error)}") from error


def parse_idx(content: bytes) -> np.ndarray:
    """Array of an idx file of bytes, the format of MNIST.

    Raises:
        ValueError: not an idx file of unsigned bytes, or its length disagrees with its header.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])).tolist()
        [7, 9]
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"not an idx file of unsigned bytes: it starts with {content[:4]!r}")
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != int(np.prod(shape)):
        raise ValueError(f"idx file of shape {shape} with {len(content) - start} bytes of data")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def is_coded_folder(root: Path) -> bool:
    """Whether ``root`` is a folder of coded sets that brings its own reader, ``load.py``."""
    return (root / "load.py").is_file() and (root / "checksums.json").is_file()


def listed(path: Path, key: str, origin: str) -> Any:
    """What a JSON file of a coded folder says of ``key``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or says nothing of ``key``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; origin: {origin}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or has no {key!r}: {error!r}; origin: {origin}"
        ) from error


def read_coded(
    root: Path, name: str, split: str, limit: int | None, origin: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, H, W, C) and labels int64 (N,) of a coded folder.

    The folder's own ``load.py`` is imported and run: give a ``root`` that you trust. Without
    ``limit`` the decoded arrays are held against the SHA-256 in ``checksums.json``.

    Raises:
        FileNotFoundError: the set or the split has no files.
        ValueError: the files do not decode, or decode to something else.
    """
    sums = listed(root / "checksums.json", f"{name}/{split}", origin)
    images_sum, labels_sum = sums.get("images"), sums.get("labels")
    where = f"{root / name}-{split}-*.npz"
    expected = f"expected sha256 {images_sum} of the decoded images; origin: {origin}"
    if not list(root.glob(f"{name}-{split}-*.npz")):
        raise FileNotFoundError(f"{where} is missing; {expected}")
    try:
        images, labels = _reader(root).load(name, split, n=limit)
    except (ValueError, LookupError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        files = f"{where}, {name}-labels.npz or {name}-model.npz"
        raise ValueError(f"{files} is damaged: {checks.reason(error)}; {expected}") from error
    if limit is None:
        for what, array, want in (("images", images, images_sum), ("labels", labels, labels_sum)):
            found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            if found != want:
                raise ValueError(
                    f"{where}: sha256 of the decoded {what} is {found}, expected {want}; "
                    f"origin: {origin}"
                )
    return images, labels


def _reader(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("qact_coded_folder_reader", root / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
