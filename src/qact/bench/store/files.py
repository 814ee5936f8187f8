"""Files that are the old ones or the new ones, never half of each; tensors with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from qact import atomic, checks
from qact.bench.errors import DamagedFileError, RecipeError, StorageError

_CHECKSUM = "blake2b"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        StorageError: that cannot be, on a disk that is read only or where a file has the name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{folder} cannot be made a folder: {error.strerror}; choose another --out"
        raise StorageError(error.errno, reason) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path``, flush, rename: readers and crashes see the old or the new file.

    Raises:
        StorageError: a full disk, say; what was there before is kept.
    """
    try:
        atomic.write(path, content)
    except OSError as error:
        kept = "the previous file is kept" if path.exists() else "nothing was written"
        reason = f"{path} cannot be written: {error.strerror or error}; {kept}"
        raise StorageError(error.errno, reason) from error


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it; only for a folder of one's own."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(repr(sorted(notes.items())).encode())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors and string notes as safetensors with a checksum, atomically."""
    from safetensors.torch import save

    # Clones: safetensors refuses tensors that share memory, and views carry their whole storage.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {**notes, _CHECKSUM: _digest(plain, notes)}
    write_atomically(path, save(plain, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        DamagedFileError: the file is truncated, altered, or not safetensors. It is left in place.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} cannot be read: {checks.reason(error)}") from error
    expected, found = notes.pop(_CHECKSUM, None), _digest(tensors, notes)
    if expected != found:
        raise DamagedFileError(f"{path} was altered: checksum {found}, not {expected}")
    return tensors, notes


def load_notes(path: Path) -> dict[str, str]:
    """Read the notes alone, without the tensors and unchecked.

    Raises:
        DamagedFileError: there is no such file, or it is not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} cannot be read: {checks.reason(error)}") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, or refuse if another run does. A killed run lets go of it.

    Raises:
        RecipeError: another run is at work there.
        StorageError: nothing can be written there.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows; there the user has to take care
        yield
        return
    try:
        lock = open(folder / ".lock", "w")  # noqa: SIM115, it is held below
    except OSError as error:
        reason = f"{folder} cannot be written: {error.strerror}; choose another --out"
        raise StorageError(error.errno, reason) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"another run is at work in {folder}; wait for it") from error
        yield
