"""A monitor's figures for Prometheus and OpenTelemetry, through their own client libraries."""

from __future__ import annotations

from typing import Any

from qact import checks
from qact.extras import needed
from qact.monitor.monitor import Monitor
from qact.monitor.reference import Verdict
from qact.monitor.window import Window

COUNTS = {
    "images": "images that were looked at",
    "seen": "images that passed",
    "broken": "images that were not finite",
}


def prometheus(monitor: Monitor, registry: Any = None) -> None:
    """Let ``prometheus_client`` serve what the monitor sees; called once per monitor.

    Counters ``qact_monitor_images_total``, ``_seen_total`` and ``_broken_total``, gauges
    ``qact_monitor_p`` and ``qact_monitor_alarm`` (0 or 1), and ``qact_monitor_distance`` with the
    label ``signal``; all have the label ``version``.

    Args:
        monitor: that is listened to.
        registry: of ``prometheus_client``; None is its default one.

    Raises:
        TypeError: no monitor; then nothing is registered.
    """
    checks.instance("monitor", monitor, Monitor, "a qact.monitor.Monitor")
    with needed("metrics for Prometheus", "monitor"):
        from prometheus_client import REGISTRY, Counter, Gauge

    own = registry or REGISTRY
    counters = {
        name: Counter(f"qact_monitor_{name}", f"Number of {text}", ["version"], registry=own)
        for name, text in COUNTS.items()
    }
    p = Gauge("qact_monitor_p", "How often a sound window is as far", ["version"], registry=own)
    alarm = Gauge("qact_monitor_alarm", "Whether an alarm stands", ["version"], registry=own)
    labels = ["version", "signal"]
    distance = Gauge("qact_monitor_distance", "From the reference, in [0, 1]", labels, registry=own)

    def tell(window: Window, verdict: Verdict | None) -> None:
        for name, counter in counters.items():
            counter.labels(monitor.version).inc(getattr(window, name))
        if verdict is not None:
            p.labels(monitor.version).set(verdict.p)
            alarm.labels(monitor.version).set(monitor.standing)
            for signal, value in verdict.distances.items():
                distance.labels(monitor.version, signal).set(value)

    monitor.listen(tell)


def opentelemetry(monitor: Monitor, meter: Any = None) -> None:
    """Let OpenTelemetry export what the monitor sees; the names are those of Prometheus, dotted.

    Args:
        monitor: that is listened to.
        meter: of the OpenTelemetry API; None asks the global provider.

    Raises:
        TypeError: no monitor.
    """
    checks.instance("monitor", monitor, Monitor, "a qact.monitor.Monitor")
    with needed("metrics for OpenTelemetry", "monitor"):
        from opentelemetry.metrics import get_meter

    meter = meter or get_meter("qact.monitor")
    counters = {
        name: meter.create_counter(f"qact.monitor.{name}", description=f"Number of {text}")
        for name, text in COUNTS.items()
    }
    gauges = {
        name: meter.create_gauge(f"qact.monitor.{name}") for name in ("p", "alarm", "distance")
    }

    def tell(window: Window, verdict: Verdict | None) -> None:
        version = {"version": monitor.version}
        for name, counter in counters.items():
            counter.add(getattr(window, name), version)
        if verdict is not None:
            gauges["p"].set(verdict.p, version)
            gauges["alarm"].set(int(monitor.standing), version)
            for signal, value in verdict.distances.items():
                gauges["distance"].set(value, {**version, "signal": signal})

    monitor.listen(tell)
