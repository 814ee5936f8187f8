"""The page, the terminal view, the commands, and what metrics say."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

pytest.importorskip("pyarrow")
pytest.importorskip("jinja2")
from typer.testing import CliRunner

from qact.cli.commands import commands
from qact.monitor import Monitor, Store, record
from qact.monitor.metrics import opentelemetry, prometheus
from qact.monitor.report import Seen, render, write_report
from qact.monitor.watch import view

VERSION = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Three sound windows and three that have drifted, in a store."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    reference = record(net, torch.randn(400, 4), draws=199)
    folder = tmp_path_factory.mktemp("report") / "store"
    monitor = Monitor(net, reference, window=32, store=str(folder), version=VERSION, machine="m1")
    monitor.alarm(rate=0.01)
    with monitor, torch.no_grad():
        for shift in (0, 0, 0, 3, 3, 3):
            net(torch.randn(32, 4) + shift)
    return monitor, folder


def test_the_page_says_what_the_store_holds(served, tmp_path):
    monitor, folder = served
    path = write_report(folder, tmp_path / "m.html", rate=0.01)
    page = path.read_text()
    assert VERSION not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"<script|https?://(?!www.w3.org)", page)  # one file, nothing to load
    assert "prefers-color-scheme: dark" in page
    alarms = sum(v.p <= 0.01 for v in monitor.verdicts)
    assert f"{alarms} of 6" in page
    assert page.count("<svg ") == 3
    for name, distance in monitor.verdicts[-1].distances.items():
        assert f">{name}<" in page
        assert f"{distance:.3g}" in page


def test_merged_windows_have_distances_and_no_p(served, tmp_path):
    monitor, _ = served
    merged = Store(tmp_path / "s")
    merged.keep_reference(monitor.reference, VERSION)
    for window in monitor.windows:
        merged.append(window)
    merged.compact("day", before=4e9)
    seen = Seen.of(merged)
    assert [one.p for one in seen.windows] == [None]
    exact = monitor.reference.distances(seen.windows[0].window)
    assert seen.distances()[0] == {n: float(gaps.mean()) for n, gaps in exact.items()}
    assert "0 of 0" in render(seen, 0.01)
    (path,) = merged.folder.glob("reference-*")
    path.unlink()
    assert "No reference was kept" in render(Seen.of(merged), 0.01)


def test_the_commands(served, tmp_path):
    _, folder = served
    run = CliRunner().invoke
    found = run(commands, ["monitor", "report", str(folder), "--out", str(tmp_path / "x.html")])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "x.html").exists()
    found = run(commands, ["monitor", "watch", str(folder), "--once"])
    assert found.exit_code == 0, found.output
    assert "alarm" in found.output
    assert "confidence" in found.output
    found = run(commands, ["monitor", "report", str(tmp_path)])
    assert found.exit_code == 2
    assert "is no store of windows" in found.output
    assert view(Seen.of(Store(folder)), 0.01).row_count == 4


def test_prometheus_is_told(served):
    client = pytest.importorskip("prometheus_client")
    monitor, _ = served
    registry = client.CollectorRegistry()
    prometheus(monitor, registry)
    monitor._listeners[-1](monitor.windows[-1], monitor.verdicts[-1])
    label = {"version": VERSION}
    assert registry.get_sample_value("qact_monitor_images_total", label) == 32
    assert registry.get_sample_value("qact_monitor_alarm", label) == 1
    assert registry.get_sample_value("qact_monitor_p", label) == monitor.verdicts[-1].p
    found = registry.get_sample_value("qact_monitor_distance", {**label, "signal": "1"})
    assert found == monitor.verdicts[-1].distances["1"]


def test_opentelemetry_is_told(served):
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    monitor, _ = served
    reader = InMemoryMetricReader()
    opentelemetry(monitor, MeterProvider([reader]).get_meter("t"))
    monitor._listeners[-1](monitor.windows[-1], monitor.verdicts[-1])
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    values = {m.name: [point.value for point in m.data.data_points] for m in metrics}
    assert values["qact.monitor.images"] == [32]
    assert sorted(values["qact.monitor.distance"]) == sorted(
        monitor.verdicts[-1].distances.values()
    )
