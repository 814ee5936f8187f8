"""The folder of a run, made; its files, and its lock, are those of `qact.files`."""

from __future__ import annotations

from pathlib import Path

from qact.bench.errors import StorageError
from qact.files import (
    alone,
    load_notes,
    load_tensors,
    remove_leftovers,
    save_tensors,
    write_atomically,
)

__all__ = [
    "alone",
    "load_notes",
    "load_tensors",
    "make_folder",
    "remove_leftovers",
    "save_tensors",
    "write_atomically",
]


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
