"""What happens on a worker: one task at a time, with one thread, by the versions that asked."""

from __future__ import annotations

import pickle
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from qact.files import ReportedError

Say = Callable[[Any], None]

# Seeds and the number of threads are a process's: of a worker's threads one works at a time.
_ALONE = threading.RLock()
_say: Say = lambda message: None  # noqa: E731
_number = 0


class ClusterError(ReportedError):
    """A cluster that is not there, does not fit, or gives up on a task."""


@dataclass(frozen=True)
class Failed:
    """The error that a task ended with, as its result: engines repeat what raises."""

    error: Exception


def versions() -> dict[str, str]:
    """What two processes must have in common to give the same bits and read each other's pickles.

    Example:
        >>> sorted(versions())
        ['numpy', 'python', 'qact', 'torch']
    """
    python = ".".join(platform.python_version_tuple()[:2])
    named = {name: str(import_module(name).__version__) for name in ("numpy", "qact", "torch")}
    return {"python": python} | {name: text.partition("+")[0] for name, text in named.items()}


def agree(asked: dict[str, str], who: str = "a worker") -> None:
    """Refuse to work for a process of other versions.

    Raises:
        ClusterError: with both versions.
    """
    own = versions()
    other = [f"{k} {own.get(k)}, not {v}" for k, v in asked.items() if own.get(k) != v]
    if other:
        raise ClusterError(
            f"{who} has {'; '.join(other)} as the process that asks: install the same on all"
        )


def differs(asked: dict[str, str]) -> str | None:
    """What a worker that does not agree would say."""
    try:
        agree(asked)
    except (ClusterError, ImportError) as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Job:
    """A function of tasks, with what it needs to run anywhere. Sent once, not with every task."""

    function: Callable[[Any], Any]
    versions: dict[str, str] = field(default_factory=versions)

    def __call__(self, task: Any, say: Say) -> Any:
        """The function's result, or what it raised, as :class:`Failed`."""
        try:
            agree(self.versions)
            with _ALONE, one_thread(), speaking(say):
                return self.function(task)
        except Exception as error:
            return Failed(_portable(error))


def tell(message: Any) -> None:
    """Send a message from inside a task to whoever runs it; elsewhere nothing happens.

    Messages are for progress: some may be lost, and those of a killed worker come twice.
    """
    _say(message)


def worker() -> int:
    """The number of this process among ``processes:N``, from 0; 0 everywhere else."""
    return _number


def become(number: int) -> None:
    """Be the worker of this number."""
    global _number
    _number = number


@contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread in a block: no number of cores can change a sum."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def speaking(say: Say) -> Iterator[None]:
    """Let :func:`tell` call ``say`` in a block."""
    global _say
    before, _say = _say, say
    try:
        yield
    finally:
        _say = before


def _portable(error: Exception) -> Exception:
    """The error if it survives a pickle, which not all do, or else what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ClusterError(f"{type(error).__name__}: {error}")
    return error
