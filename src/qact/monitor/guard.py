"""`Guard`: the model as it is, and an adapted copy for as long as an alarm stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import adapt, checks
from qact.adapt import Method
from qact.locks import Lock
from qact.monitor.monitor import Monitor

SUGGESTED = "suggested"
ADAPTS = {"batch": "batch", "safe": "safe", "recalibrate": "safe"}


class Guard(nn.Module):
    """Serve the monitored model, and a method of :mod:`qact.adapt` only while an alarm stands.

    The monitored model sees every batch, so that the monitor can tell when the alarm is over; while
    it stands, a batch therefore costs a pass more. When it ends the method is reset: the next alarm
    finds the source model.

    Args:
        monitor: with at least one alarm.
        method: a name of :func:`qact.adapt.methods`, a class, or ``"suggested"``: that which the
            latest window suggests, ``"batch"`` or ``"safe"`` (which stands in for
            ``"recalibrate"``, as it needs no source), and the model as it is for the other two.
        options: of the method.

    Raises:
        ValueError: the monitor has no alarm; or as :func:`qact.adapt.create`.

    Example:
        >>> from qact.monitor import Guard, Monitor, record
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> monitor = Monitor(net.eval(), record(net, torch.randn(512, 4), draws=99), window=64)
        >>> alarm = monitor.alarm(rate=0.02)
        >>> served = Guard(monitor, "batch")
        >>> with monitor:
        ...     for x in (torch.randn(64, 4), torch.randn(64, 4) + 5, torch.randn(64, 4)):
        ...         _ = served(x)
        ...         print(served.adapting)
        False
        True
        False
    """

    def __init__(self, monitor: Monitor, method: str | type[Method] = "safe", **options: Any):
        super().__init__()
        checks.instance("monitor", monitor, Monitor, "a qact.monitor.Monitor")
        if not monitor.detectors:
            raise ValueError("the monitor has no alarm to wait for: monitor.alarm(rate=0.01)")
        self.monitor = monitor
        self._suggested = method == SUGGESTED
        wanted: set[Any] = set(ADAPTS.values()) if self._suggested else {method}
        self._methods = {one: adapt.create(one, monitor.model, **options) for one in wanted}
        self._lock, self._used = Lock(), False

    @property
    def method(self) -> Method | None:
        """What the next batch is adapted by, if it is; None if the model as it is was suggested."""
        if not self._suggested:
            return next(iter(self._methods.values()))
        suggestion = self.monitor.suggestion()
        return None if suggestion is None else self._methods.get(ADAPTS.get(suggestion.action, ""))

    @property
    def adapting(self) -> bool:
        """Whether the next batch is adapted to."""
        return self.monitor.standing and self.method is not None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C): of the model, or of the adapted copy if the alarm stands after ``x``."""
        with torch.no_grad():
            logits = self.monitor.model(x)
        with self._lock:
            if not self.monitor.standing:
                if self._used:
                    for method in self._methods.values():
                        method.reset()
                    self._used = False
                return logits
            self._used, chosen = True, self.method
        return logits if chosen is None else chosen(x)
