"""Where Numba keeps compiled code if it finds no folder to write to: in one of this process alone.

It would refuse to compile at all, as in a container whose files are read-only and whose user has no
home. Only for this package's own functions.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba.core.caching as _caching

caching: Any = _caching
PACKAGE, PREFIX = Path(__file__).resolve().parents[2], "qact-kernels-"


@cache
def folder() -> str:
    """A folder that ends with this process; in memory where no other can be written.

    Raises:
        OSError: not even that.
    """
    try:
        made = tempfile.mkdtemp(prefix=PREFIX)
    except OSError:
        made = tempfile.mkdtemp(prefix=PREFIX, dir="/dev/shm")
    atexit.register(_remove, made, os.getpid())
    return made


def _remove(made: str, process: int) -> None:
    if os.getpid() == process:  # a fork ends as well
        shutil.rmtree(made, ignore_errors=True)


class Passing(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """Asked after all of Numba's own."""

    def __init__(self, function: Any, file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        """The folder of the process."""
        return folder()

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        """One for a function of this package, or None."""
        if PACKAGE in Path(file).resolve().parents:
            with suppress(OSError):
                folder()
                return cls(function, file)
        return None


caching.CompileResultCacheImpl._locator_classes.append(Passing)
