"""The page, the terminal view, the commands, and what metrics say."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("pyarrow")
pytest.importorskip("jinja2")
from markupsafe import escape
from typer.testing import CliRunner

from qact.cli.commands import commands
from qact.monitor import Monitor, Store, StoreError, record, suggest
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
    signals = monitor.verdicts[-1].distances
    widths = [float(w) for w in re.findall(r'<svg [^>]*width="([\d.]+)pt"', page)]
    assert len(widths) == 2 + len(signals)  # time lines, map, and a density of each
    assert max(widths) <= 303  # points of which a phone shows all without scrolling
    for name, distance in signals.items():
        assert f">{name}<" in page
        assert f"{distance:.3g}" in page


@pytest.mark.own_seed  # for which the batch is what is suggested
def test_page_terminal_and_store_suggest_what_the_monitor_does(served):
    monitor, folder = served
    said = monitor.suggestion()
    assert said is not None
    assert said.action == "batch"
    latest = Store(folder).read()[-1]
    assert latest.verdict == monitor.verdicts[-1]
    assert (latest.verdict.batch, latest.verdict.alike) == (32, None)  # of a single call
    assert latest.verdict.spread is not None
    seen = Seen.of(Store(folder))
    assert seen.suggestion(0.01) == said
    page = " ".join(render(seen, 0.01).split())
    assert f"<b>{said.action}</b><span>suggested: {escape(said.advice)}</span>" in page
    assert f"<p>Why: {escape(said.reason)}.</p>" in page
    assert view(seen, 0.01).caption == f"{said.action}: {said.reason}"


class Long(nn.Module):
    """Two layers with the long names that transformers have."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda: nn.ModuleDict({"output_layernorm_after": nn.LayerNorm(4)})  # noqa: E731
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(2))})

    def forward(self, x):
        for layer in self.encoder["layers"]:
            x = layer["output_layernorm_after"](x)
        return x


def test_long_names_are_cut_in_figures_alone(tmp_path):
    net, x = Long().eval(), torch.randn(64, 4)
    with Monitor(net, record(net, x, draws=19), window=8, store=tmp_path / "s"):
        net(x[:8])
    page = write_report(tmp_path / "s", tmp_path / "m.html").read_text()
    figures, table = page.split("The latest window</h2>")
    for layer in "01":
        assert f">encoder.layers.{layer}.output_layernorm_after<" in table
        assert f"encod.layer.{layer}.outpu" in figures  # still told apart


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
    assert seen.distances[0] == {n: float(gaps.mean()) for n, gaps in exact.items()}
    assert "0 of 0" in render(seen, 0.01)
    (path,) = merged.folder.glob("reference-*")
    path.unlink()
    assert "No reference was kept" in render(Seen.of(merged), 0.01)


def test_no_more_windows_are_read_than_shown(served, tmp_path):
    """A store of months must not be read whole, again and again, by whoever watches it."""
    monitor, folder = served
    copied = Store(shutil.copytree(folder, tmp_path / "s"))
    copied.files()[0].write_bytes(b"damaged, and never looked at")
    seen = Seen.of(copied, 2)
    assert [one.p for one in seen.windows] == [v.p for v in list(monitor.verdicts)[-2:]]
    assert seen.distances == [v.distances for v in list(monitor.verdicts)[-2:]]
    assert [one.start for one in seen.windows] == [w.start for w in list(monitor.windows)[-2:]]
    assert "2 windows" in render(seen, 0.01)
    with pytest.raises(StoreError, match="is damaged"):
        Seen.of(copied)


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


def test_a_narrow_terminal_has_the_latest_windows(served):
    """They stand at the right, where Rich cuts."""
    _, folder = served
    seen = Seen.of(Store(folder))
    seen = replace(seen, windows=seen.windows * 40, distances=seen.distances * 40)
    wide, narrow = (view(seen, 0.01, columns).columns for columns in (200, 30))
    bars = [(list(w.cells), list(n.cells)) for w, n in zip(wide[3:], narrow[3:], strict=True)]
    for whole, few in zip(*bars[0], strict=True):
        assert len(whole) == 40
        assert whole[-10:] == few


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


def test_what_is_no_monitor_is_refused_before_anything_is_registered(served):
    client = pytest.importorskip("prometheus_client")
    monitor, _ = served
    registry = client.CollectorRegistry()
    with pytest.raises(TypeError, match=r"monitor=5 must be a qact.monitor.Monitor"):
        prometheus(5, registry)
    prometheus(monitor, registry)  # its names are free still
    with pytest.raises(TypeError, match="monitor='m' must be"):
        opentelemetry("m")
    with pytest.raises(TypeError, match=r"verdict=0.01 must be a qact.monitor.Verdict"):
        suggest(0.01)


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
