"""Tasks in this process, or in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from qact.integrations.cluster.base import Cluster, Heard, Remote, WorkerDiedError
from qact.integrations.cluster.registry import register
from qact.integrations.cluster.task import ClusterError, Job, become, one_thread, speaking


@register("here", paper="this process", form="here")
class Here(Cluster):
    """One task after the other in this process, with one thread."""

    name = "here"
    shares_files = True

    def __init__(self, address: str = "") -> None:
        if address:
            raise ClusterError(f"'here' is this process and has no address, got {address!r}")

    def room(self) -> int:
        """One."""
        return 1

    def _results(
        self, job: Job, tasks: Iterable[Any], heard: Heard, gpus: int, window: int | None
    ) -> Iterator[tuple[int, Any]]:
        # What is told is heard at once, and an error is the one that was raised, not a copy.
        for index, task in enumerate(tasks):
            result: Any
            with one_thread(), speaking(lambda message, index=index: heard(index, message)):  # type: ignore[misc]
                try:
                    result = job.function(task)
                except Exception as error:
                    result = error
            yield index, result


class StoppedError(Exception):
    """The run was told to stop; raised inside a worker."""


@register("processes", paper="concurrent.futures", form="processes:N")
class Processes(Remote):
    """N processes of this machine, each with one thread."""

    shares_files = True

    def __init__(self, count: int | str) -> None:
        if not str(count).isdigit() or int(count) < 1:
            raise ClusterError(f"processes:N takes a number from 1, got {count!r}")
        self.count = int(count)
        self.name = f"processes:{count}"
        # Spawn: a fork of a process that has run torch may hang in its thread pools.
        self._context = multiprocessing.get_context("spawn")

    def room(self) -> int:
        """As many as there are processes."""
        return self.count

    def _begin(self, job: Job, heard: Heard, gpus: int) -> None:
        self._job = job
        self._messages, self._stop = self._context.Queue(), self._context.Event()
        self._idle = list(range(self.count))[::-1]
        # A pool of its own for each: the death of one breaks no task of another.
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._working: dict[Future[Any], int] = {}
        threading.Thread(target=_forward, args=(self._messages, heard), daemon=True).start()

    def _submit(self, index: int, task: Any) -> Future[Any]:
        number = self._idle.pop()
        if number not in self._pools:
            begin = (self._job, self._messages, self._stop, number)
            self._pools[number] = ProcessPoolExecutor(
                1, self._context, initializer=_start_worker, initargs=begin
            )
        with deaf():  # the process begins here
            future = self._pools[number].submit(_in_worker, index, task)
        self._working[future] = number
        return future

    def _outcome(self, future: Future[Any]) -> Any:
        number = self._working.pop(future)
        self._idle.append(number)
        try:
            return future.result()
        except BrokenProcessPool as error:
            self._pools.pop(number).shutdown()
            raise WorkerDiedError from error

    def _end(self, futures: list[Any]) -> None:
        self._stop.set()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._messages.put(None)


@contextmanager
def deaf() -> Iterator[None]:
    """Let processes that begin in the block wait with a Ctrl-C: it is for the parent, see below.

    While they import torch they could not say so themselves, and each printed a traceback. The
    parent hears of one after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forward(messages: Any, heard: Heard) -> None:
    while (found := messages.get()) is not None:
        heard(*found)


_job: Job
_messages: Any = None
_stop: Any = None


def _start_worker(job: Job, messages: Any, stop: Any, number: int) -> None:
    global _job, _messages, _stop
    _job, _messages, _stop = job, messages, stop
    become(number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us
    torch.set_num_threads(1)
    if os.getcwd() not in sys.path:  # where a user's modules lie
        sys.path.insert(0, os.getcwd())


def _end_with_parent() -> None:
    """A parent that was killed tells nobody, and its orphans would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_worker(index: int, task: Any) -> Any:
    def say(message: Any) -> None:
        if _stop.is_set():
            raise StoppedError
        _messages.put((index, message))

    return _job(task, say)
