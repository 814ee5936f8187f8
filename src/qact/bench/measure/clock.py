"""Processor time of one thread, batch by batch: what else runs on the machine does not count."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor


class Clock:
    """Times calls; a GPU is waited for, and then it is the wall's time.

    Example:
        >>> clock = Clock(torch.device("cpu"))
        >>> _ = clock(lambda: torch.ones(3).cumsum(0))
        >>> clock.median_ms() >= 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self.seconds: list[float] = []

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        """Return what ``work`` returns."""
        begin = self._now()
        result = work()
        self.seconds.append(self._now() - begin)
        return result

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.thread_time()

    def median_ms(self) -> float:
        """Return the median over calls, in milliseconds."""
        return round(1000 * median(self.seconds), 3)
