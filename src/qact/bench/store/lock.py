"""One run at a time in a folder: two writers would lose each other's work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qact.bench.errors import RecipeError, StorageError


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
