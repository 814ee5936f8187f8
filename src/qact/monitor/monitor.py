"""`Monitor`: watches a served model, window by window."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Protocol, TypeVar

from torch import nn

from qact import checks
from qact.locks import Lock
from qact.monitor import detectors
from qact.monitor.collect import Collector, Rows
from qact.monitor.detectors import Detector
from qact.monitor.reference import Reference, Verdict
from qact.monitor.signals import RESERVED
from qact.monitor.suggestion import Suggestion, suggest
from qact.monitor.window import CHUNK, Open, Window
from qact.surgery import Where

Function = TypeVar("Function", bound=Callable[..., Any])
JUDGE = "qact.monitor.judge"  # name of the threads


class Keeps(Protocol):
    """What windows are appended to."""

    def append(self, window: Window, verdict: Verdict | None = None) -> Any:
        """Keep a window."""


class Monitor:
    """Watch ``model``: contexts of its input, layers, logits and confidence, window by window.

    As a context manager it watches for a block, as a decorator as long as the function runs, and
    between :meth:`start` and :meth:`stop` for as long as a service lives. Calls in training mode
    are not watched. Any number of threads may call the model; a call counts once, as a whole, or,
    if it raises, not at all.

    At most ``CHUNK`` images wait to be counted, ``positions`` values of each per channel, beside
    one context per signal; the last ``keep`` windows stay in memory, 8 KiB a channel. A store or a
    listener that fails is a warning, and never an error of a call that is served.

    Args:
        model: any module, called with a batch (N, ...) as its first tensor.
        reference: of :func:`qact.monitor.record`; without one windows are kept and not judged.
        where: which layers: a name, pattern, type, predicate or list as in :func:`qact.record`;
            None takes those of the reference, or at most eight QAct layers, or else norms.
        window: images per window, or a ``timedelta``: then it closes with the first call after it,
            and is judged by a thread of the monitor, which :meth:`close` waits for.
        store: what closed windows are appended to: a :class:`qact.monitor.Store`, or its folder.
        sample: share of the images that are looked at, in (0, 1].
        positions: of an image and channel, None for all; with a reference, its own.
        version: of the model, kept with every window.
        machine: that serves, by default its host name.
        keep: how many closed windows stay in memory, in ``windows`` and ``verdicts``.
        seed: of the sampling.

    Attributes:
        windows: the last closed ones.
        verdicts: theirs; None without a reference.
        count: how many windows have closed.

    Example:
        >>> import torch
        >>> from qact.monitor import Monitor, record
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()).eval()
        >>> reference = record(model, torch.randn(512, 4), draws=200)
        >>> with Monitor(model, reference, window=64) as monitor:
        ...     alarm = monitor.alarm(rate=0.01)
        ...     for _ in range(4):
        ...         _ = model(3 * torch.randn(32, 4))
        >>> len(monitor.windows), alarm.standing, monitor.verdicts[-1].images
        (2, True, 64)
    """

    def __init__(
        self,
        model: nn.Module,
        reference: Reference | None = None,
        *,
        where: Where = None,
        window: int | timedelta = 256,
        store: Keeps | str | None = None,
        sample: float = 1.0,
        positions: int | None = 16,
        version: str = "",
        machine: str | None = None,
        keep: int = 16,
        seed: int = 0,
    ) -> None:
        self._images: int | None = None
        self._seconds: float | None = None
        if isinstance(window, timedelta):
            seconds = window.total_seconds()
            checks.number("window", seconds, "a positive time", 0)
            self._seconds = seconds
        else:
            self._images = checks.integer("window", window, 1)
        for name, word in (("version", version), ("machine", machine or "")):
            if not isinstance(word, str) or "," in word:
                raise ValueError(f"{name}={word!r} must be a string without commas")
        if not isinstance(reference, Reference | None):
            raise TypeError(
                f"reference={checks.shown(reference)} must be what qact.monitor.record returns"
            )
        self.model, self.reference = model, reference
        self.version, self.machine = version, machine or socket.gethostname().replace(",", "_")
        if reference is not None:
            known = [name for name in reference.signals if name not in RESERVED]
            where = known if where is None else where
            positions = reference.positions  # alarms are calibrated for these
        self._collector = Collector(
            model,
            where,
            self._keep,
            sample=checks.number("sample", sample, "a share in (0, 1]", 0, 1),
            positions=positions,
            seed=seed,
        )
        self.windows: deque[Window] = deque(maxlen=checks.integer("keep", keep, 1))
        self.verdicts: deque[Verdict | None] = deque(maxlen=keep)
        self.count = 0
        self.detectors: list[Detector] = []
        self._store = _opened(store)
        if reference is not None and hasattr(self._store, "keep_reference"):
            self._store.keep_reference(reference, version)
        self._listeners: list[Callable[[Window, Verdict | None], Any]] = []
        self._lock, self._users = Lock(), 0
        self._frames = {} if reference is None else dict(reference.frames)
        self._open: Open | None = None
        self._began = 0.0
        if reference is not None and self._images is not None:
            reference.null(self._images)  # now, and not within a call that is served
        # One thread judges windows of time, in their order; it starts with the first of them.
        self._judge = ThreadPoolExecutor(1, JUDGE)
        self._judging: Future[None] | None = None
        self._process = os.getpid()

    def alarm(self, rate: float = 0.01, detector: str = "window", **options: Any) -> Detector:
        """An alarm that is asked at every window from now on; ``standing`` says whether it is on.

        Args:
            rate: share of sound windows at which it fires, or one over its average run length.
            detector: ``"window"``, ``"cusum"``, ``"martingale"`` or ``"adwin"``.
            options: of the detector.

        Raises:
            ValueError: there is no reference, it has too few draws for a window to be that rare, or
                a word or number is not valid.
        """
        if self.reference is None:
            raise ValueError("an alarm needs a reference: Monitor(model, qact.monitor.record(...))")
        made = detectors.create(detector, rate, **options)
        if detector == "window" and rate < (least := 1 / (1 + self.reference.draws)):
            raise ValueError(
                f"rate={rate} is below {least:.2g}, the least p-value that a reference of "
                f"{self.reference.draws} draws can give: record(model, loader, "
                f"draws={math.ceil(1 / rate) - 1}) or more"
            )
        with self._lock:
            self.detectors.append(made)
        return made

    @property
    def standing(self) -> bool:
        """Whether some alarm stands."""
        return any(detector.standing for detector in self.detectors)

    def suggestion(self, rate: float | None = None) -> Suggestion | None:
        """What to do about the latest window, and why; None as long as none was judged.

        Args:
            rate: p-values up to it count as moved; None is that of the first alarm, or 0.01.
        """
        with self._lock:
            if not self.verdicts or self.verdicts[-1] is None:
                return None
            verdict, window = self.verdicts[-1], self.windows[-1]
            rates = [detector.rate for detector in self.detectors]
        return suggest(verdict, window, self.reference, rate=rate or (rates or [0.01])[0])

    def listen(self, listener: Callable[[Window, Verdict | None], Any]) -> None:
        """Call ``listener(window, verdict)`` at every window that closes, after the alarms."""
        if not callable(listener):
            raise TypeError(
                f"listener={checks.shown(listener)} must be a function of two arguments"
            )
        self._listeners.append(listener)

    def start(self) -> Monitor:
        """Watch; calls nest with :meth:`stop`."""
        with self._lock:
            if not self._users:
                self._collector.attach()
            self._users += 1
        return self

    def stop(self) -> None:
        """Watch no more; the open window stays open until :meth:`close`."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._collector.detach()

    def close(self) -> None:
        """Close the open window as it is, if it has seen an image, and wait until it is judged."""
        with self._lock:
            self._forked()
            if self._open is not None and self._open.size:
                self._finish()
            judging = self._judging
        if judging is not None and not threading.current_thread().name.startswith(JUDGE):
            judging.result()

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
        self.close()

    def __call__(self, function: Function) -> Function:
        """Decorate: watch as long as ``function`` runs; a coroutine function too.

        Raises:
            TypeError: it is a generator, which runs after it has returned.
        """
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is a generator: watch inside it, `with monitor:`")
        if iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **named: Any) -> Any:
                self.start()
                try:
                    return await function(*args, **named)
                finally:
                    self.stop()

            return awaited  # type: ignore[return-value]

        @wraps(function)
        def watched(*args: Any, **named: Any) -> Any:
            self.start()
            try:
                return function(*args, **named)
            finally:
                self.stop()

        return watched  # type: ignore[return-value]

    def _keep(self, rows: Rows, size: int, calls: int) -> None:
        """Take in the sampled rows of a call, at the borders of windows divided."""
        missing = [layer.name for layer in self._collector.layers if layer.name not in rows]
        if missing:
            raise RuntimeError(f"never called: {', '.join(missing)}; leave these out with where=")
        rows = {name: z.cpu() for name, z in rows.items()}
        count = len(next(iter(rows.values())))
        with self._lock:
            self._current().calls += calls
            place, seen = 0, 0
            while place < count:
                window = self._current()
                room = CHUNK if self._images is None else max(self._images - window.size, 1)
                part = min(room, count - place, CHUNK)
                window.add({name: z[place : place + part] for name, z in rows.items()})
                place += part
                passed = size * place // count  # images that the sampled ones stand for
                window.seen, seen = window.seen + passed - seen, passed
                if self._late() or (self._images is not None and window.size >= self._images):
                    self._finish()

    def _current(self) -> Open:
        if self._open is None:
            self._open, self._began = Open(self._frames, time.time()), time.monotonic()
        return self._open

    def _late(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds

    def _finish(self) -> None:
        window = self._current()
        window.flush()
        if not window.frames:  # nothing finite was ever seen: there is no grid to count on
            return
        self._frames = window.frames
        end = window.start + time.monotonic() - self._began
        closed = window.closed(end, self.version, self.machine)
        self._open = None
        if self.reference is None or self._seconds is None:
            self._enter(closed)
        else:  # of any size: to calibrate for it takes seconds, for which no call shall wait
            self._forked()
            self._judging = self._judge.submit(self._calibrate, self.reference, closed)

    def _forked(self) -> None:
        """In a child process: it has the pool, and what waits in it, but no thread that works."""
        if self._process != os.getpid():
            self._judge, self._judging = ThreadPoolExecutor(1, JUDGE), None
            self._process = os.getpid()

    def _calibrate(self, reference: Reference, closed: Window) -> None:
        if closed.images:
            reference.null(closed.images)
        with self._lock:
            self._enter(closed)

    def _enter(self, closed: Window) -> None:
        """Judge a window that has closed, and tell of it."""
        verdict = None
        if self.reference is not None:
            verdict = (
                self.reference.test(closed) if closed.images else _blind(closed, self.reference)
            )
            for detector in self.detectors:
                detector.update(verdict.p)
        self.windows.append(closed)
        self.verdicts.append(verdict)
        self.count += 1
        for tell in [*([] if self._store is None else [self._store.append]), *self._listeners]:
            try:
                tell(closed, verdict)
            except Exception as error:  # a full disk must not end the service
                told = getattr(tell, "__qualname__", repr(tell))
                warnings.warn(
                    f"{told} failed for a window: {error!r}", RuntimeWarning, stacklevel=2
                )


def _blind(window: Window, reference: Reference) -> Verdict:
    """Of a window without a finite image: as far from sound as can be told."""
    least = 1 / (1 + reference.draws)
    ones = dict.fromkeys(window.signals, 1.0)
    return Verdict(0, ones, dict.fromkeys(window.signals, least), least, 1.0)


def _opened(store: Any) -> Any:
    if store is None or hasattr(store, "append"):
        return store
    from qact.monitor.store import Store

    return Store(store)
