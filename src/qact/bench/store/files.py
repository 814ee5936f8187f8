"""The folder of a run: made, or held against another run; its files are those of `qact.files`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qact.bench.errors import RecipeError, StorageError
from qact.files import load_notes, load_tensors, remove_leftovers, save_tensors, write_atomically

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
