"""Cells in this process, or in several side by side: the results are the same bits either way.

Every cell runs with one thread, so neither the number of processes nor that of cores can change a
sum.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from queue import Empty
from typing import Any

import torch

from qact.bench.errors import CellError
from qact.bench.measure.metrics import Row
from qact.bench.runner.cell import Cell, Outcome, run_cell
from qact.bench.runner.progress import Display

_POLL = 0.2  # seconds between looks at the workers' messages


Keep = Callable[[str, list[Row]], None]  # a cell's name, rows


class StoppedError(Exception):
    """The run was told to stop; raised inside a worker."""


def run_cells(
    cells: list[Cell],
    jobs: int,
    display: Display,
    sizes: dict[str, int],
    devices: tuple[str, ...] = ("cpu",),
    keep: Keep = lambda cell, rows: None,
) -> Iterator[tuple[Cell, Outcome | Exception]]:
    """Yield each cell with its outcome, or the error it ended with, in the order of completion.

    Worker ``k`` works on device ``k`` of ``devices``, counted round and round. ``keep`` is called
    with a cell's rows as they come; the outcome has them all once more.
    """
    if jobs == 1 or len(cells) <= 1:
        yield from _here(cells, display, sizes, devices[0], keep)
    else:
        yield from _beside(cells, min(jobs, len(cells)), display, sizes, devices, keep)


def _here(
    cells: list[Cell], display: Display, sizes: dict[str, int], device: str, keep: Keep
) -> Iterator[tuple[Cell, Outcome | Exception]]:
    for cell in cells:
        display.start(cell.name, cell.work(sizes))
        outcome: Outcome | Exception
        with _one_thread():
            try:
                tell = partial(display.advance, cell.name)
                outcome = run_cell(cell, tell, device, partial(keep, cell.name))
            except Exception as error:
                outcome = error
        yield cell, outcome


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _beside(
    cells: list[Cell],
    jobs: int,
    display: Display,
    sizes: dict[str, int],
    devices: tuple[str, ...],
    keep: Keep,
) -> Iterator[tuple[Cell, Outcome | Exception]]:
    # Spawn: a fork of a process that has run torch may hang in its thread pools.
    context = multiprocessing.get_context("spawn")
    messages, stop, places = context.Queue(), context.Event(), context.Queue()
    for worker in range(jobs):
        places.put(devices[worker % len(devices)])
    work = {cell.name: cell.work(sizes) for cell in cells}
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_start_worker, initargs=(messages, stop, places)
    )
    try:
        futures: dict[Future[Outcome], Cell] = {pool.submit(_in_worker, c): c for c in cells}
        while futures:
            finished, _ = wait(futures, timeout=_POLL, return_when=FIRST_COMPLETED)
            _listen(messages, display, work, keep)
            for future in finished:
                cell = futures.pop(future)
                if work.get(cell.name) is not None:  # it failed before its first message
                    display.start(cell.name, work.pop(cell.name))
                yield cell, _outcome(future)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[Outcome]) -> Outcome | Exception:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return CellError(
            "a worker was killed, for want of memory perhaps; the same command goes on"
        )
    if error is not None and not isinstance(error, Exception):
        raise error
    return error if isinstance(error, Exception) else future.result()


def _listen(messages: Any, display: Display, work: dict[str, int], keep: Keep) -> None:
    while True:
        try:
            cell, what = messages.get_nowait()
        except Empty:
            return
        if isinstance(what, list):
            keep(cell, what)
            continue
        amount, stage = what
        if cell in work:
            display.start(cell, work.pop(cell))
        display.advance(cell, amount, stage)


_messages: Any = None
_stop: Any = None
_device = "cpu"


def _start_worker(messages: Any, stop: Any, places: Any) -> None:
    global _messages, _stop, _device
    _messages, _stop, _device = messages, stop, places.get()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us
    torch.set_num_threads(1)
    if os.getcwd() not in sys.path:  # where a user's module of rivals lies
        sys.path.insert(0, os.getcwd())


def _end_with_parent() -> None:
    """A parent that was killed tells nobody, and its orphans would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_worker(cell: Cell) -> Outcome:
    def keep(rows: list[Row]) -> None:
        _messages.put((cell.name, rows))

    return run_cell(cell, partial(_report, cell.name), _device, keep)


def _report(cell: str, amount: int, stage: str) -> None:
    if _stop.is_set():
        raise StoppedError
    _messages.put((cell, (amount, stage)))
