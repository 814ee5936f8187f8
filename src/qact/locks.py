"""A lock for objects that are copied, pickled and forked.

A copy has a lock of its own, and in a child process a lock that another thread held is open: that
thread is not there to open it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakSet

Function = TypeVar("Function", bound=Callable[..., Any])
_LIVE: WeakSet[Lock] = WeakSet()


class Lock:
    """``with lock:`` lets in one thread at a time, which may come in again.

    ``orphaned`` is called in a child process whose lock was held by a thread that is not there.
    """

    def __init__(self, orphaned: Callable[[], None] | None = None) -> None:
        self._own, self._orphaned = threading.RLock(), orphaned
        _LIVE.add(self)

    def __enter__(self) -> None:
        self._own.acquire()

    def __exit__(self, *error: object) -> None:
        self._own.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        """A copy, and what was pickled, has a lock of its own."""
        return Lock, ()

    def after_fork(self) -> None:
        """Open it in a child process."""
        if self._own.acquire(blocking=False):  # free, or held by the thread that has forked
            self._own.release()
            return
        self._own = threading.RLock()
        if self._orphaned is not None:
            self._orphaned()


def exclusive(method: Function) -> Function:
    """Let a method of an object wait until no other thread is in one: it holds ``self.alone``."""

    @wraps(method)
    def waiting(self: Any, *args: Any, **named: Any) -> Any:
        with self.alone:
            return method(self, *args, **named)

    return waiting  # type: ignore[return-value]


def _after_fork() -> None:
    for lock in list(_LIVE):
        lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
