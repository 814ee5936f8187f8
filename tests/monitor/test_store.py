"""The store: bits that come back, merges by query, crashes, compaction, foreign folders."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

from qact.monitor import Store, StoreError, Window, total
from qact.monitor.sketch import Frame, sketch

FRAME = Frame.around(torch.linspace(-2, 2, 64)[:, None, None].expand(-1, 3, -1))


def window(seed: int = 0, images: int = 7, *, scale: float = 1.0, start: float = 0.0, **words):
    """Three channels and one, some values far out."""
    draw = torch.Generator().manual_seed(seed)
    layer = scale * torch.randn(images, 3, 5, generator=draw) ** 3
    one = torch.rand(images, 1, 1, generator=draw)
    frames = {"layer": FRAME, "confidence": Frame(FRAME.exponent[:1], FRAME.middle[:1])}
    found = {name: sketch(z, frames[name]) for name, z in (("layer", layer), ("confidence", one))}
    return Window(found, images, 2 * images, 1, start, start + 9, **words, calls=3)


def same(a: Window, b: Window) -> None:
    """Equal to the bit."""
    assert list(a.histograms) == list(b.histograms)
    for name in a.histograms:
        one, other = a.context(name), b.context(name)
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
    for name in ("images", "seen", "broken", "calls", "start", "end", "version", "machine"):
        assert getattr(a, name) == getattr(b, name)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from([1e-3, 1.0, 40.0])), min_size=2))
def test_merging_does_not_depend_on_order_or_grouping(parts):
    windows = [window(seed, scale=scale) for seed, scale in parts[:6]]
    half = len(windows) // 2
    grouped = total(windows[half:]) + total(windows[:half])
    same(grouped, reduce(Window.__add__, windows))
    assert int(grouped.context("layer").count[0]) == 35 * len(windows)


def test_a_merge_is_the_sketch_of_all_values():
    draw = torch.Generator().manual_seed(3)
    z = torch.randn(64, 3, 5, generator=draw) * torch.tensor([0.1, 0.5, 1.0])[:, None]
    whole = Window({"x": sketch(z, FRAME)}, 64)
    parts = [Window({"x": sketch(part, FRAME)}, len(part)) for part in z.split([1, 30, 33])]
    same(total(parts), whole)
    mean = z.double().mean((0, 2))
    width = 2.0 ** whole.histograms["x"].grid.exponent
    assert ((whole.context("x").mean - mean).abs() <= width / 256).all()


@settings(max_examples=10)
@given(st.integers(0, 99), st.sampled_from([1e-4, 1.0, 900.0]))
def test_a_window_comes_back_bit_by_bit(tmp_path_factory, seed, scale):
    store = Store(tmp_path_factory.mktemp("store") / "w")
    written = window(seed, scale=scale, version="v1", machine="a")
    store.append(written)
    same(store.windows()[0], written)
    same(store.total(), written)


def test_merging_by_query_is_merging_in_memory(tmp_path):
    store = Store(tmp_path / "w")
    written = [
        window(k, scale=10.0 ** (k % 4 - 2), start=100.0 * k, version=f"v{k % 2}", machine="a")
        for k in range(8)
    ]
    for one in written:
        store.append(one)
    pytest.importorskip("duckdb")
    same(store.total(), total(written))
    same(store.total(version="v1"), total(written[1::2]))
    same(store.total(since=200, until=500), total(written[2:5]))
    with pytest.raises(StoreError, match="no windows"):
        store.total(machine="b")


def test_compaction_loses_nothing(tmp_path):
    pytest.importorskip("duckdb")
    store = Store(tmp_path / "w")
    written = [window(k, start=1800.0 * k, version=f"v{k % 2}", machine="a") for k in range(30)]
    for one in written:
        store.append(one)
    before = store.total()
    for level, files in (("hour", 30), ("day", 2)):
        store.compact(level, before=86400.0)
        assert len(store.files()) <= files
        same(store.total(), before)
    assert {one.level for one in store.read()} == {"day"}
    store.append(window(99, start=90000.0))
    assert store.retain(6 * 3600.0, now=30 * 3600.0) == 2
    assert [one.start for one in store.windows()] == [90000.0]


def test_a_merge_that_was_killed_counts_nothing_twice(tmp_path, monkeypatch):
    store = Store(tmp_path / "w")
    for k in range(4):
        store.append(window(k, start=10.0 * k))
    monkeypatch.setattr(store, "_sweep", lambda: 0)  # killed before anything was removed
    store.compact("hour", before=7200.0)
    again = Store(store.folder)
    assert len(list(store.folder.glob("*.parquet"))) == 5
    assert [one.images for one in again.windows()] == [28]
    assert again.compact("day", before=86400.0 * 2) == 1  # the four were swept before
    assert [one.images for one in again.windows()] == [28]


def test_threads_and_processes_lose_nothing(tmp_path):
    store = Store(tmp_path / "w")
    command = [sys.executable, "-c", PLAIN + APPENDS, str(store.folder)]
    running = [subprocess.Popen(command) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda: [store.append(window(k)) for k in range(5)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in running] == [0] * 4
    assert sorted(one.images for one in store.windows()) == [7] * 10 + [64] * 20


# Without torch: a process starts in a moment.
PLAIN = """
import os, random, signal, sys, time
from types import SimpleNamespace as Plain
import numpy as np
from qact.monitor.store import Store
assert "torch" not in sys.modules
store = Store(sys.argv[1])
grid = Plain(exponent=np.zeros(2, int), offset=np.zeros(2, int))
one = np.ones((2, 64))
window = Plain(histograms={"x": Plain(mass=one, moment=one / 2, grid=grid)}, version="", machine="",
               start=0.0, end=1.0, images=64, seen=64, broken=0, calls=1)
"""
APPENDS = "for _ in range(5): store.append(window)"
KILLS = """
store.append(window)
random.seed(0)
safe = 1
for _ in range(100):
    told, tells = os.pipe()
    child = os.fork()
    if not child:
        while True:
            store.append(window)
            os.write(tells, b"x")
    os.read(told, 1)
    time.sleep(random.uniform(0, 0.006))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(tells)
    safe += 1 + sum(len(part) for part in iter(lambda: os.read(told, 65536), b""))
    os.close(told)
    found = len(store.files())
    assert safe <= found <= safe + 1, (safe, found)  # the one whose name was not told yet
    safe = found
print(safe, sum(1 for _ in store.folder.glob(".window*")))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="kills forked writers")
def test_killed_writers_lose_the_open_window_at_most(tmp_path):
    """A hundred times kill -9 in the middle of writes."""
    command = [sys.executable, "-c", PLAIN + KILLS, str(tmp_path / "w")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    count, torn = map(int, found.stdout.split())
    assert count > 100
    assert torn > 0  # some were killed within a write, or nothing was tested
    windows = Store(tmp_path / "w").windows()
    assert len(windows) == count
    assert {one.images for one in windows} == {64}


def test_what_is_foreign_or_damaged_is_said(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(StoreError, match=r"no store of windows: it has no qact-store.json"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="no store"):
        Store(tmp_path / "none", create=False)
    store = Store(tmp_path / "w")
    store.append(window())
    path = store.files()[0]
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-9] + b"123456789"):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="is damaged"):
            store.windows()
    path.write_bytes(whole)
    for foreign in ("mine.parquet", "window-mine.parquet"):
        path.rename(path.with_name(foreign))
        with pytest.raises(StoreError, match="is no window of this store"):
            store.total()
        path.with_name(foreign).rename(path)
    (store.folder / "qact-store.json").write_text('{"format": "qact.monitor.store/9"}')
    with pytest.raises(StoreError, match=r"has the format 'qact.monitor.store/9'"):
        Store(store.folder)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 7), st.booleans())
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory, place, bit, merged):
    """Parquet has no sums of its own over pages or footer: in a thousand flips fifty changed."""
    store = Store(tmp_path_factory.mktemp("store") / "w")
    store.append(window())
    if merged:
        store.compact("hour", before=7200.0)
    (path,) = store.files()
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        store.windows()


def test_a_store_that_is_being_made_is_no_foreign_folder(tmp_path):
    """As another process sees it between making the folder and naming it a store."""
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / ".qact-store.json.x1y2").write_bytes(b"")
    Store(folder).append(window())
    assert len(Store(folder, create=False).files()) == 1


def test_a_total_while_somebody_merges(tmp_path, monkeypatch):
    pytest.importorskip("duckdb")
    store = Store(tmp_path / "w")
    for k in range(3):
        store.append(window(k))
    listed, merging = store.files(), Store(store.folder)
    answers = iter([listed])

    def files():
        if (old := next(answers, None)) is not None:
            merging.compact("hour", before=7200.0)
            return old  # files that are gone by now
        return merging.files()

    monkeypatch.setattr(store, "files", files)
    assert store.total().images == 21


def test_windows_of_another_model_do_not_add_up(tmp_path):
    other = Window({"layer": window().histograms["layer"]}, 7)
    with pytest.raises(ValueError, match="different models"):
        window() + other
    store = Store(tmp_path / "w")
    store.append(window())
    store.append(other)
    pytest.importorskip("duckdb")
    with pytest.raises(StoreError, match="windows of 2 models"):
        store.total()
