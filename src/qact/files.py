"""Files of tensors with a checksum, written whole, and what can go wrong with them, in words."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qact import atomic, checks, extras

if TYPE_CHECKING:
    from torch import Tensor

_CHECKSUM = "blake2b"


class ReportedError(Exception):
    """Base of the errors that a command line prints as one line instead of a traceback."""


class DamagedFileError(ReportedError):
    """A file of results or tensors that cannot be read; it is never overwritten."""


class StorageError(ReportedError, OSError):
    """A file that cannot be written, on a full disk for example; the old one is kept."""

    def __str__(self) -> str:
        return str(self.strerror)


class BusyError(ReportedError):
    """A folder in which another process is at work."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, or refuse if another process does. A killed one lets go of it.

    Raises:
        BusyError: another process is at work there.
        StorageError: nothing can be written there.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows; there the user has to take care
        yield
        return
    path = folder / ".lock"
    try:
        lock = open(path, "w")  # noqa: SIM115, it is held below
    except OSError as error:
        reason = f"{folder} cannot be written: {error.strerror}; choose another folder"
        raise StorageError(error.errno, reason) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except OSError:
            held = False
        if not held:  # or its holder has just removed it: whoever comes next makes another
            raise BusyError(f"another run is at work in {folder}; wait for it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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
    import torch  # the command line knows these errors before it needs torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(repr(sorted(notes.items())).encode())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors and string notes as safetensors with a checksum, atomically."""
    with extras.needed("a file of tensors", "bench"):
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
    with extras.needed("a file of tensors", "bench"):
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
    with extras.needed("a file of tensors", "bench"):
        from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} cannot be read: {checks.reason(error)}") from error
